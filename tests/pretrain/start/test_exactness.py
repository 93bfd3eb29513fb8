"""START_FROM computes what transformers computes, and saves again what it has loaded."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from pretrain.model.export import export_model
from pretrain.model.model import BasePretrainModel
from pretrain.model.modeling_extremebert import register
from pretrain.settings import ModelSettings
from tests.pretrain.model.test_model import VARIANTS, model_args
from tests.pretrain.start.checkpoints import (
    CHECKPOINTS,
    NUM_ENTRIES,
    OF_TRANSFORMERS,
    started,
    write_checkpoint,
    write_tokenizer,
)

pytestmark = pytest.mark.slow

ALL = {**CHECKPOINTS, **OF_TRANSFORMERS}
OWN = {
    "swiglu rmsnorm": VARIANTS["swiglu rmsnorm"],
    "no embedding norm": VARIANTS["no embedding norm"],
    "absolute windows": VARIANTS["absolute windows"],
    "windows of another theta": {
        **VARIANTS["swiglu rmsnorm"],
        **{"attention_window": 6, "global_attention_every": 2, "local_rope_theta": 100.0},
    },
}
SPECIAL_IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        name: write_checkpoint(folder / name.replace(" ", "_"), model_type, **entries)
        for name, (model_type, entries) in ALL.items()
    }


def masked_batch(pad: int, length: int = 16):
    """Three rows with padding in one, segments, and 8 predictions."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(5, NUM_ENTRIES, (3, length), generator=generator)
    mask = torch.ones(3, length, dtype=torch.bool)
    mask[1, 11:] = False
    input_ids[1, 11:] = pad
    segments = (torch.arange(length) > 7).long().expand(3, length) * mask
    index = torch.tensor([1, 5, 9, 17, 20, 25, 33, 46])
    labels = input_ids.flatten()[index]
    input_ids.view(-1)[index] = 4
    return input_ids, segments, mask, index, labels


def loss_of_transformers(folder: Path, batch) -> float:
    input_ids, segments, mask, index, labels = batch
    model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    targets = torch.full((input_ids.numel(),), -100).scatter(0, index, labels)
    inputs = {"input_ids": input_ids, "attention_mask": mask.long()}
    if getattr(model.config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = segments
    return model(**inputs, labels=targets.view_as(input_ids)).loss.item()


def exported(run, folder: Path) -> Path:
    """Exports a run's model, as after its last step."""
    weights = {name: parameter.detach() for name, parameter in run.model.named_parameters()}
    export_model(weights | run.loaded.kept, run.settings, run.tokenizer, folder)
    return folder


@pytest.mark.parametrize("name", ALL)
def test_loss_is_that_of_transformers(folders, name):
    run = started(folders[name])
    assert isinstance(run.model, BasePretrainModel) == (name in CHECKPOINTS)
    assert run.loaded.fresh == () and run.loaded.unused == ()
    batch = masked_batch(run.start.checkpoint.pad_token_id)
    with torch.no_grad():
        assert run.model(*batch).item() == pytest.approx(
            loss_of_transformers(folders[name], batch), abs=1e-5
        )


@pytest.mark.parametrize("name", OWN)
def test_our_own_exports_come_back(name, tmp_path):
    args = model_args(num_hidden_layers=4, special_ids=SPECIAL_IDS, **OWN[name])
    torch.manual_seed(1)
    model = BasePretrainModel(args).eval()
    weights = {key: parameter.detach() for key, parameter in model.named_parameters()}
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    before = tmp_path / "before"
    export_model(weights, ModelSettings.from_args(args), tokenizer, before)
    assert json.loads((before / "config.json").read_text())["model_type"] == "extreme-bert"
    run, batch = started(before), masked_batch(0)
    assert isinstance(run.model, BasePretrainModel)
    register()
    with torch.no_grad():
        loss = run.model(*batch).item()
        assert loss == model(*batch).item()
        assert loss == pytest.approx(loss_of_transformers(before, batch), abs=1e-5)
    again = exported(run, tmp_path / "again") / "model.safetensors"
    assert again.read_bytes() == (before / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ALL)
def test_saving_without_a_step_gives_the_same_tensors(folders, name, tmp_path):
    again = load_file(exported(started(folders[name]), tmp_path / "again") / "model.safetensors")
    before = load_file(folders[name] / "model.safetensors")
    assert again.keys() == before.keys()
    for key, tensor in before.items():
        assert torch.equal(again[key], tensor), key
