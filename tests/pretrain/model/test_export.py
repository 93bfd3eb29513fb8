"""The exported folder: transformers loads it without this project and computes what was trained."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from finetune.search.job_folder import model_path, new_model
from pretrain.kernels.attention import Documents
from pretrain.model.export import export_model, needs_remote_code
from pretrain.model.exported_code import FILES, write_code
from pretrain.model.model import build_model
from pretrain.model.vocabulary import find_tokenizer, read_vocabulary
from pretrain.settings import ModelSettings
from tests.dataset.dataset_helpers import save_bert_tokenizer
from tests.pretrain.model.test_model import LABELS, VARIANTS, example_batch, model_args
from tests.pretrain.shards import SPECIAL

pytestmark = pytest.mark.slow

STOCK = {
    "pre-ln": "RobertaPreLayerNormForMaskedLM",
    "post-ln": "BertForMaskedLM",
    "modernbert": "ModernBertForMaskedLM",
    "modernbert without biases": "ModernBertForMaskedLM",
    "swiglu modernbert": "ModernBertForMaskedLM",
    "windows": "ModernBertForMaskedLM",
    "relu pre-ln": "RobertaPreLayerNormForMaskedLM",
    "gelu_new post-ln": "BertForMaskedLM",
    "transformers' modernbert": "ModernBertForMaskedLM",
    "transformers' roberta": "RobertaForMaskedLM",
    "transformers' distilbert": "DistilBertForMaskedLM",
}
MODELS = {
    **VARIANTS,
    "swiglu modernbert": {**VARIANTS["modernbert"], "hidden_act": "silu", "rope_theta": 500.0},
    "relu pre-ln": {"hidden_act": "relu"},
    "gelu_new post-ln": {"encoder_ln_mode": "post-ln", "hidden_act": "gelu_new"},
    "transformers' modernbert": {"model_type": "modernbert"},
    "transformers' roberta": {"model_type": "roberta"},
    "transformers' distilbert": {"model_type": "distilbert"},
}
every_model = pytest.mark.parametrize("name", MODELS)
SPECIAL_IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}

FRESH_PROCESS = """
import sys, torch
from pathlib import Path
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers import AutoModelForTokenClassification, pipeline

def measure(folder, batch):
    own_code = {"trust_remote_code": (folder / "modeling_extremebert.py").exists()}
    model, info = AutoModelForMaskedLM.from_pretrained(
        folder, output_loading_info=True, **own_code)
    tokenizer = AutoTokenizer.from_pretrained(folder, **own_code)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["mask"].long()}
    if "token_type_ids" in tokenizer.model_input_names:
        inputs["token_type_ids"] = batch["segment_ids"]
    output = model.eval()(**inputs, labels=batch["labels"])
    output.loss.backward()
    words = model.get_input_embeddings().weight
    model.save_pretrained(folder.with_suffix(".again"))
    again = AutoModelForMaskedLM.from_pretrained(folder.with_suffix(".again"), **own_code).eval()
    pair = tokenizer(["w1 w2", "w3 w4 w5"], ["w6", "w7"], padding=True, return_tensors="pt")
    texts = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3, **own_code)
    score = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, **own_code)
    tags = AutoModelForTokenClassification.from_pretrained(folder, num_labels=3, **own_code)
    fill = pipeline("fill-mask", model=str(folder), **own_code)
    return {
        "class": type(model).__name__,
        "wrong_keys": {key: list(value) for key, value in info.items() if value},
        "hidden": model.base_model(**inputs)[0].detach(),
        "logits": output.logits.detach(),
        "again": again(**inputs).logits.detach(),
        "tied": again.get_output_embeddings().weight is again.get_input_embeddings().weight,
        "loss": output.loss.detach(),
        "gradient": words.grad,
        "filled": fill("w1 [MASK] w3"),
        "classes": texts(**pair, labels=torch.tensor([0, 2])).logits.shape,
        "tags": tags(**pair, labels=pair["input_ids"] % 3).logits.shape[2],
        "regression": score(**pair, labels=torch.tensor([0.5, 2.0])).loss.item(),
        "longest": len(tokenizer("w1 " * 50, truncation=True)["input_ids"]),
    }

batch = torch.load("batch.pt")
results = {folder.name: measure(folder, batch) for folder in sorted(Path("models").iterdir())}
assert not any(name.split(".")[0] in ("pretrain", "pipeline") for name in sys.modules)
torch.save(results, "results.pt")
"""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset") / "tokenizer"
    save_bert_tokenizer([*SPECIAL, *(f"w{i}" for i in range(56))], False, folder)
    return folder


def randomized(**changes):
    """Biases and norms too, so that a tensor in the wrong place shows."""
    torch.manual_seed(0)
    model = build_model(model_args(special_ids=SPECIAL_IDS, **changes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif "embeddings" in name:
                parameter.mul_(5.0)
    return model.eval()


def export(model, tokenizer, folder, **changes):
    special_ids = read_vocabulary(tokenizer).special_ids
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    settings = ModelSettings.from_args(model_args(**changes), special_ids=special_ids)
    export_model(weights, settings, tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def models():
    return {name: randomized(**changes) for name, changes in MODELS.items()}


@pytest.fixture(scope="module")
def loaded(models, tokenizer, tmp_path_factory):
    """What a process that does not know this project finds in the folders, by model."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for name, model in models.items():
        export(model, tokenizer, folder / "models" / name, **MODELS[name])
    input_ids, segment_ids, mask, index = example_batch()
    labels = torch.full((48,), -100).scatter(0, index, LABELS).view(3, 16)
    batch = {"input_ids": input_ids, "segment_ids": segment_ids, "mask": mask, "labels": labels}
    torch.save(batch, folder / "batch.pt")
    environment = {**os.environ, "HF_HOME": str(folder / "cache"), "PYTHONPATH": ""}
    environment["OMP_NUM_THREADS"] = "1"  # tiny products: more threads would only wait
    done = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / "results.pt")


@every_model
def test_logits_and_hidden_states_equal_those_of_the_training_model(models, loaded, name):
    model, found = models[name], loaded[name]
    input_ids, segment_ids, mask, _ = example_batch()
    real = mask.flatten().nonzero().squeeze(1)
    logits = model(input_ids, segment_ids, mask, real).detach()
    close = {"atol": 1e-5, "rtol": 1e-5}
    assert found["logits"].shape == (3, 16, 61)
    torch.testing.assert_close(found["logits"].flatten(0, 1)[real], logits[:, :61], **close)
    torch.testing.assert_close(found["again"], found["logits"], atol=0, rtol=0)
    if hasattr(model, "encode"):
        hidden = model.encoder(input_ids, segment_ids, mask).detach().flatten(0, 1)[real]
        torch.testing.assert_close(found["hidden"].flatten(0, 1)[real], hidden, **close)


@pytest.mark.slow
@every_model
def test_loss_and_gradients_equal_those_of_the_training_model(models, loaded, name):
    model, found = models[name], loaded[name]
    loss = model(*example_batch(), LABELS)
    model.zero_grad()
    loss.backward()
    torch.testing.assert_close(found["loss"], loss.detach())
    words = next(p for n, p in model.named_parameters() if p.shape[0] in (61, 64) and p.ndim == 2)
    ours = words.grad[1:61]  # theirs keeps row 0, the padding, at zero
    torch.testing.assert_close(found["gradient"][1:], ours, atol=1e-5, rtol=1e-4)


@every_model
def test_it_is_loaded_as_the_stock_class_if_there_is_one(loaded, name):
    assert loaded[name]["class"] == STOCK.get(name, "ExtremeBertForMaskedLM")
    assert loaded[name]["wrong_keys"] == {} and loaded[name]["tied"]
    assert needs_remote_code(model_args(**MODELS[name])) == (name not in STOCK)


@every_model
def test_it_fills_masks_and_is_finetuned(loaded, name):
    found = loaded[name]
    assert len(found["filled"]) == 5 and 0 < found["filled"][0]["score"] < 1
    assert found["classes"] == (2, 3) and found["regression"] > 0 and found["tags"] == 3
    assert found["longest"] == 16  # truncation=True fits the model's positions


@pytest.mark.parametrize("name", ["pre-ln", "modernbert", "absolute glu", "swiglu rmsnorm"])
def test_our_finetuning_loads_it_as_it_is(models, tokenizer, tmp_path, name):
    from finetune.data.tasks import find_task
    from finetune.training.training import build_classifier, usable_length

    changes = MODELS[name]
    folder = export(models[name], tokenizer, tmp_path / "model", **changes)
    classifier = build_classifier(str(folder), find_task("MRPC"), seed=0)
    assert usable_length(classifier, 512) == 16
    rotary = changes.get("position_embedding_type") == "rotary"
    assert (getattr(classifier.config, "type_vocab_size", 0) > 1) != rotary
    with new_model(tmp_path) as aside:
        classifier.save_pretrained(aside)
        if type(classifier).__module__.startswith("pretrain."):
            write_code(aside)
    again = build_classifier(str(model_path(tmp_path)), find_task("MRPC"), seed=1).eval()
    inputs = {"input_ids": example_batch()[0], "attention_mask": example_batch()[2]}
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, classifier.eval()(**inputs).logits)
    code = sorted(path.name for path in model_path(tmp_path).glob("*.py"))
    assert code == sorted(path.name for path in folder.glob("*.py"))


@pytest.mark.parametrize("own_code", [False, True], ids=["ModernBERT", "own code"])
@pytest.mark.parametrize("window", [0, 32, 128])
@pytest.mark.parametrize("length", [200, 600])
def test_windows_are_exported(tokenizer, tmp_path, length, window, own_code):
    """Without a window, every layer attends to all tokens, which is not ModernBERT's default."""
    from transformers import AutoModelForMaskedLM

    from pretrain.model.modeling_extremebert import register

    register()
    changes = {**MODELS["modernbert"], "max_seq_length": length, "attention_window": window}
    changes |= {"num_hidden_layers": 4, "norm_type": "rmsnorm" if own_code else "layernorm"}
    changes |= {"rope_theta": 500.0}
    model = randomized(**changes)
    folder = export(model, tokenizer, tmp_path / "model", **changes)
    loaded = AutoModelForMaskedLM.from_pretrained(folder).eval()
    assert (type(loaded).__name__ == "ExtremeBertForMaskedLM") == own_code
    input_ids = torch.randint(5, 61, (2, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, length, dtype=torch.bool)
    mask[1, length - 50 :] = False
    real = mask.flatten().nonzero().squeeze(1)
    with torch.no_grad():
        found = loaded(input_ids=input_ids, attention_mask=mask.long()).logits.flatten(0, 1)
        expected = model(input_ids, torch.zeros_like(input_ids), mask, real)[:, :61]
    torch.testing.assert_close(found[real], expected, atol=1e-5, rtol=1e-5)
    if not own_code:
        config = json.loads((folder / "config.json").read_text())
        assert config["global_attn_every_n_layers"] == (3 if window else 1)
        assert config.get("local_attention", 0) == window
        assert (loaded.config.cls_token_id, loaded.config.sep_token_id) == (2, 3)


@pytest.mark.parametrize("window", [0, 32])
def test_packed_documents_are_what_the_export_makes_of_each(tokenizer, tmp_path, window):
    from transformers import AutoModelForMaskedLM

    changes = {**MODELS["modernbert"], "max_seq_length": 600, "attention_window": window}
    model = randomized(**changes, num_hidden_layers=4)
    folder = export(model, tokenizer, tmp_path / "model", **changes, num_hidden_layers=4)
    loaded = AutoModelForMaskedLM.from_pretrained(folder).eval()
    lengths = (300, 1, 99, 200)
    ids = torch.randint(5, 61, (1, 600), generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    numbers = torch.repeat_interleave(torch.arange(1, 5), torch.tensor(lengths))[None]
    documents = Documents.of(lengths, numbers)
    with torch.no_grad():
        expected = [loaded(input_ids=part).logits[0] for part in ids.split(lengths, dim=1)]
        found = model(ids, 0 * ids, documents, torch.arange(600), None, positions)[:, :61]
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-5, rtol=1e-5)


def test_resizing_the_vocabulary_of_our_own_architecture(models, tokenizer, tmp_path):
    from transformers import AutoModelForMaskedLM

    from pretrain.model.modeling_extremebert import register

    register()
    folder = export(models["absolute glu"], tokenizer, tmp_path / "model", **MODELS["absolute glu"])
    model = AutoModelForMaskedLM.from_pretrained(folder)
    model.resize_token_embeddings(70)
    assert model(input_ids=torch.tensor([[2, 69, 3]])).logits.shape == (1, 3, 70)


def test_transformers_can_checkpoint_the_gradients_of_our_own_architecture(
    models, tokenizer, tmp_path
):
    from transformers import AutoModelForMaskedLM

    from pretrain.model.modeling_extremebert import register

    register()
    folder = export(
        models["swiglu rmsnorm"], tokenizer, tmp_path / "model", **MODELS["swiglu rmsnorm"]
    )
    model = AutoModelForMaskedLM.from_pretrained(folder)
    model.gradient_checkpointing_enable()
    assert model.model.encoder.gradient_checkpointing
    model.train()(input_ids=torch.tensor([[2, 9, 3]])).logits.sum().backward()
    assert model.get_input_embeddings().weight.grad.any()


def test_weights_of_another_model_are_refused(models, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="another model"):
        export(models["transformers' roberta"], tokenizer, tmp_path / "model", model_type="bert")


def test_exporting_again_replaces_the_folder_whole(models, tokenizer, tmp_path):
    folder = export(models["pre-ln"], tokenizer, tmp_path / "model")
    (folder / "left_over").touch()
    export(models["pre-ln"], tokenizer, folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_model_without_segments_says_so_to_the_tokenizer(models, tokenizer, tmp_path):
    names = {}
    for name in ("pre-ln", "modernbert"):
        folder = export(models[name], tokenizer, tmp_path / name, **MODELS[name])
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        names[name] = settings.get("model_input_names")
    with_segments = ["input_ids", "token_type_ids", "attention_mask"]
    assert names == {"pre-ln": with_segments, "modernbert": ["input_ids", "attention_mask"]}


def test_vocabulary(tokenizer, tmp_path):
    vocabulary = read_vocabulary(tokenizer)
    assert vocabulary.size == 61
    assert vocabulary.special_ids == SPECIAL_IDS
    assert find_tokenizer(tokenizer.parent, "another", tmp_path) == tokenizer
    with pytest.raises(FileNotFoundError, match="--tokenizer_name"):
        find_tokenizer(tmp_path, "", tmp_path)


def test_an_exports_code_is_complete(tmp_path):
    """Versions 4 of transformers fetch only the files that the modelling file itself names."""
    write_code(tmp_path)

    def named_in(file):
        text = (tmp_path / file).read_text()
        assert not re.search(r"^\s*(from|import) pretrain\b", text, re.M)
        return {f"{name}.py" for name in re.findall(r"^from \.(\w+) import", text, re.M)}

    model, *others = [Path(name).name for name in FILES]
    assert named_in(model) == set(others)
    assert all(named_in(file) <= set(others) for file in others)


def test_a_tokenizer_without_its_file_is_named(tokenizer, tmp_path):
    shutil.copytree(tokenizer, tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        read_vocabulary(tmp_path / "tokenizer")
