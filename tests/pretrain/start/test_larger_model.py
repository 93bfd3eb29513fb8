"""A larger model that begins as a smaller checkpoint (MODEL.GROW)."""

import pytest
import torch

from configs.defaults import get_default_config
from configs.pretrain_rules import problems_of_pretraining
from pretrain.start.completion import complete, completed
from tests.pretrain.start.checkpoints import CHECKPOINTS, started, write_checkpoint
from tests.pretrain.start.test_exactness import exported, loss_of_transformers, masked_batch

WIDER = {"HIDDEN_SIZE": 64, "NUM_ATTENTION_HEADS": 8, "INTERMEDIATE_SIZE": 96}
SAME_DEPTH = {"GROW": True, "NUM_HIDDEN_LAYERS": 4, **WIDER}


@pytest.mark.parametrize("name", ["bert", "pre-ln, padding 1", "modernbert"])
def test_twice_the_width_computes_the_same(tmp_path, name):
    model_type, entries = CHECKPOINTS[name]
    folder = write_checkpoint(tmp_path / "small", model_type, **entries)
    pad = entries.get("pad_token_id", 0)
    batch = input_ids, segments, mask, index, labels = masked_batch(pad)
    if entries.get("type_vocab_size") == 1:
        segments = torch.zeros_like(segments)
    run = started(folder, **SAME_DEPTH)
    expected = loss_of_transformers(folder, batch)
    found = run.model(input_ids, segments, mask, index, labels).item()
    assert found == pytest.approx(expected, abs=1e-4)
    assert loss_of_transformers(exported(run, tmp_path / "large"), batch) == pytest.approx(
        found, abs=1e-5
    )


def test_the_defaults_of_sizes_count_with_grow(tmp_path):
    folder = write_checkpoint(tmp_path / "small", "bert", hidden_size=64, num_attention_heads=1)
    config = get_default_config()
    config.PRETRAIN.START_FROM, config.MODEL.GROW = str(folder), True
    assert complete(config) == []
    model = config.MODEL
    assert (model.NUM_HIDDEN_LAYERS, model.HIDDEN_SIZE, model.INTERMEDIATE_SIZE) == (24, 1024, 4096)
    assert model.ENCODER_LN_MODE == "post-ln"
    config.freeze()
    assert completed(config) == config


def test_sizes_that_do_not_grow(tmp_path):
    folder = write_checkpoint(tmp_path / "small", "bert")
    config = get_default_config()
    config.PRETRAIN.START_FROM = str(folder)
    config.MODEL.update(SAME_DEPTH | {"NUM_HIDDEN_LAYERS": 3, "NUM_ATTENTION_HEADS": 4})
    layers, heads = complete(config)
    assert layers.startswith("MODEL.NUM_HIDDEN_LAYERS: MODEL.GROW from")
    assert layers.endswith("cannot grow to 3, expected at least 4")
    assert heads.endswith("heads keep their size 8, got 4 for a width of 64, expected 8")


def test_nothing_grows_without_a_model():
    config = get_default_config()
    config.MODEL.GROW = True
    (problem,) = problems_of_pretraining(config)
    assert problem.startswith("MODEL.GROW: got True without PRETRAIN.START_FROM")
