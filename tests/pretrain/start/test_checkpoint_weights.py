"""Loading from every form of a checkpoint, and errors for those that are not whole."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import StageError
from pretrain.start.checkpoint_weights import repeated
from tests.malicious import malicious_pickle
from tests.pretrain.start.checkpoints import (
    CHECKPOINTS,
    NUM_ROWS,
    OF_TRANSFORMERS,
    started,
    write_checkpoint,
)

WEIGHTS = "model.safetensors"
HEAD = "cls.predictions."
FRESH = (
    "cls.predictions.bias",
    *(f"cls.predictions.transform.LayerNorm.{kind}" for kind in ("bias", "weight")),
    *(f"cls.predictions.transform.dense.{kind}" for kind in ("bias", "weight")),
)


@pytest.fixture
def bert(tmp_path):
    return write_checkpoint(tmp_path / "bert", "bert")


def weights_of(run):
    return {name: parameter.detach() for name, parameter in run.model.named_parameters()}


def same(left, right):
    left, right = weights_of(left), weights_of(right)
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def rewrite(folder, change):
    """Replaces the tensors by `change(tensors)`."""
    tensors = change(load_file(folder / WEIGHTS))
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def without(*beginnings):
    return lambda tensors: {n: t for n, t in tensors.items() if not n.startswith(beginnings)}


# --- forms -----------------------------------------------------------------------------------


def test_shards_and_pickles_hold_the_same(bert, tmp_path):
    whole = started(bert)
    tensors = load_file(bert / WEIGHTS)
    (bert / WEIGHTS).unlink()
    halves = {"a.safetensors": [*tensors][:20], "b.safetensors": [*tensors][20:]}
    for name, keys in halves.items():
        save_file({key: tensors[key] for key in keys}, bert / name)
    places = {key: name for name, keys in halves.items() for key in keys}
    (bert / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": places}))
    assert same(started(bert), whole)
    for path in bert.glob("*.safetensors*"):
        path.unlink()
    for is_zip in (True, False):  # torch wrote no zip before version 1.6
        torch.save(tensors, bert / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
        assert same(started(bert), whole)


def test_old_names_and_copies_of_tied_tensors(bert):
    whole = started(bert)

    def older(tensors):
        names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        pattern = re.compile("|".join(names))
        renamed = {pattern.sub(lambda m: names[m[0]], n): t for n, t in tensors.items()}
        words = renamed["bert.embeddings.word_embeddings.weight"]
        renamed[f"{HEAD}decoder.weight"] = words.clone()
        renamed[f"{HEAD}decoder.bias"] = renamed.pop(f"{HEAD}bias")
        renamed["bert.embeddings.position_ids"] = torch.arange(40)[None]
        return renamed

    rewrite(bert, older)
    assert same(started(bert), whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_it_is(tmp_path, dtype):
    folder = write_checkpoint(tmp_path / "half", "bert", dtype=dtype)
    words = load_file(folder / WEIGHTS)["bert.embeddings.word_embeddings.weight"]
    assert words.dtype == dtype
    found = started(folder).model.encoder.embeddings.word.weight[:NUM_ROWS]
    assert found.dtype == torch.float32 and torch.equal(found, words.float())


def test_an_encoder_alone_gets_a_fresh_head(bert):
    whole = weights_of(started(bert))

    def bare(tensors):  # as sentence-transformers saves it
        kept = without(HEAD)(tensors)
        pooler = {"pooler.dense.weight": torch.zeros(32, 32)}
        return {n.removeprefix("bert."): t for n, t in kept.items()} | pooler

    rewrite(bert, bare)
    run = started(bert)
    assert run.loaded.fresh == FRESH and run.loaded.unused == ("pooler.dense.weight",)
    assert run.loaded.fresh_bias
    assert run.loaded.in_words() == (
        f"{run.loaded.num_loaded} tensors loaded; a fresh prediction head of 5 "
        f"({', '.join(FRESH)}); 1 unused (pooler.dense.weight)"
    )
    for name, weight in weights_of(run).items():
        if name.startswith("encoder."):
            assert torch.equal(weight, whole[name])
    assert run.model.output_bias.abs().max() == 0
    assert 0.01 < run.model.head.dense.weight.std() < 0.03


def test_a_classifier_of_transformers_code_gets_a_fresh_head(tmp_path):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    model_type, entries = OF_TRANSFORMERS["electra generator"]
    folder = write_checkpoint(tmp_path / "electra", model_type, **entries)
    config = AutoConfig.from_pretrained(folder)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    run = started(folder)
    assert run.loaded.fresh and all(name.startswith("generator") for name in run.loaded.fresh)
    assert all(name.startswith("classifier.") for name in run.loaded.unused)
    assert len(run.loaded.unused) == 4


# --- broken checkpoints ----------------------------------------------------------------------

LOST = "bert.encoder.layer.3.attention.self.query.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(LOST), f"lacks parameters of the encoder: {LOST}$"),
        (
            lambda tensors: {**tensors, "bert.encoder.layer.9.new": torch.ones(1)},
            r"find no place: bert\.encoder\.layer\.9\.new; expected",
        ),
        (
            lambda tensors: {**tensors, f"{HEAD}decoder.weight": torch.ones(NUM_ROWS, 32)},
            r"decoder\.weight differs from bert\.embeddings\.word_embeddings\.weight",
        ),
        (
            lambda tensors: {**tensors, LOST: torch.ones(32, 8)},
            r"key\.weight has the shape \[32, 32\], expected \[32, 8\]",
        ),
        (
            lambda tensors: {
                **tensors,
                "bert.embeddings.word_embeddings.weight": torch.ones(NUM_ROWS + 1, 32),
                f"{HEAD}bias": torch.ones(NUM_ROWS + 1),
            },
            f"has {NUM_ROWS + 1} rows in .*, expected {NUM_ROWS}, the vocab_size",
        ),
    ],
)
def test_an_encoder_that_is_not_whole_is_refused(bert, change, message):
    rewrite(bert, change)
    with pytest.raises(StageError, match=message):
        started(bert)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("electra.encoder.layer.1.output"), "lacks parameters of the encoder: electra"),
        (
            lambda tensors: {**tensors, "electra.encoder.layer.9.new": torch.ones(1)},
            "find no place: electra.encoder.layer.9.new",
        ),
    ],
)
def test_so_it_is_by_the_code_of_transformers(tmp_path, change, message):
    model_type, entries = OF_TRANSFORMERS["electra generator"]
    folder = write_checkpoint(tmp_path / "electra", model_type, **entries)
    rewrite(folder, change)
    with pytest.raises(StageError, match=message):
        started(folder)


def test_code_in_a_pickle_is_not_run(bert, tmp_path):
    (bert / WEIGHTS).unlink()
    (bert / "pytorch_model.bin").write_bytes(malicious_pickle(tmp_path / "marker"))
    with pytest.raises(StageError, match="a pickle that holds more than tensors"):
        started(bert)
    assert not (tmp_path / "marker").exists()


def test_damaged_and_missing_files_are_named(bert):
    content = (bert / WEIGHTS).read_bytes()
    (bert / WEIGHTS).write_bytes(content[:1000])
    with pytest.raises(StageError, match=r"model\.safetensors cannot be read"):
        started(bert)
    (bert / WEIGHTS).unlink()
    with pytest.raises(StageError, match="no weights in"):
        started(bert)


# --- positions -------------------------------------------------------------------------------


def test_a_longer_table_repeats_the_short_one():
    table = torch.arange(6.0).view(3, 2)
    assert torch.equal(repeated(table, 7), table[[0, 1, 2, 0, 1, 2, 0]])
    assert torch.equal(repeated(table, 2), table[:2])


@pytest.mark.parametrize("name", ["bert", "pre-ln, padding 1", "roberta"])
def test_positions_are_extended_and_nothing_else(tmp_path, name):
    model_type, entries = {**CHECKPOINTS, **OF_TRANSFORMERS}[name]
    folder = write_checkpoint(tmp_path / "short", model_type, **entries)
    short, long = started(folder), started(folder, length=100)
    positions = short.start.checkpoint.num_positions
    assert positions == (38 if entries.get("pad_token_id") else 40)
    assert (short.settings.positions, long.settings.positions) == (positions, 100)
    after = weights_of(long)
    for key, weight in weights_of(short).items():
        if "position" not in key:
            rows = NUM_ROWS if "word" in key else len(weight)  # the padding is random
            assert torch.equal(after[key][:rows], weight[:rows])
            continue
        first = 2 if name == "roberta" else 0  # rows before that of position 0
        assert torch.equal(after[key][:first], weight[:first])
        for start in (0, positions):
            stop = min(100, start + positions)
            assert torch.equal(
                after[key][first + start : first + stop], weight[first:][: stop - start]
            )
        assert len(after[key]) == first + 100
