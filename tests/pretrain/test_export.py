"""The exported folder: stock transformers loads it and computes what the training model does."""

import subprocess
import sys

import pytest
import torch

from pretrain.export import export_model
from pretrain.vocabulary import find_tokenizer, read_vocabulary
from tests.pretrain.shards import write_dataset
from tests.pretrain.test_model import _args, _batch, _model


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("dataset")) / "tokenizer"


def _export(model, args, tokenizer, folder):
    special_ids = read_vocabulary(tokenizer).special_ids
    export_model(model.state_dict(), args, tokenizer, special_ids, folder)
    return folder


def _randomize(model):
    """Biases and norms too, so that a tensor in the wrong place shows."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif "embeddings" in name:
                parameter.mul_(5.0)
    return model.eval()


@pytest.mark.parametrize(
    ("mode", "act"),
    [("pre-ln", "gelu"), ("post-ln", "gelu"), ("pre-ln", "relu"), ("post-ln", "gelu_new")],
)
def test_logits_equal_those_of_the_training_model(tokenizer, tmp_path, mode, act):
    from transformers import AutoModelForMaskedLM

    args = _args(encoder_ln_mode=mode, hidden_act=act)
    model = _randomize(_model(encoder_ln_mode=mode, hidden_act=act))
    folder = _export(model, args, tokenizer, tmp_path / "model")
    loaded, info = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    input_ids, segment_ids, mask, _ = _batch()
    real = mask.flatten().nonzero().squeeze(1)
    with torch.no_grad():
        ours = model.logits(input_ids, segment_ids, mask, real)
        theirs = loaded.eval()(
            input_ids=input_ids, attention_mask=mask.long(), token_type_ids=segment_ids
        ).logits.flatten(0, 1)[real]
    assert theirs.shape[-1] == 61
    torch.testing.assert_close(theirs, ours[:, :61], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["pre-ln", "post-ln"])
def test_gradients_equal_those_of_transformers(tokenizer, tmp_path, mode):
    from transformers import AutoModelForMaskedLM

    args, model = _args(encoder_ln_mode=mode), _randomize(_model(encoder_ln_mode=mode))
    loaded = AutoModelForMaskedLM.from_pretrained(
        _export(model, args, tokenizer, tmp_path / "model")
    ).eval()
    input_ids, segment_ids, mask, index = _batch()
    labels = torch.tensor([7, 8, 9, 60])
    spread = torch.full((48,), -100).scatter(0, index, labels).view(3, 16)
    loss = model(input_ids, segment_ids, mask, index, labels)
    loaded_loss = loaded(
        input_ids=input_ids, attention_mask=mask.long(), token_type_ids=segment_ids, labels=spread
    ).loss
    torch.testing.assert_close(loaded_loss, loss)
    loss.backward()
    loaded_loss.backward()
    ours = model.embeddings.word.weight.grad[1:61]  # theirs keeps row 0, the padding, at zero
    theirs = loaded.get_input_embeddings().weight.grad[1:]
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-4)


FRESH_PROCESS = """
import sys
from transformers import AutoModelForSequenceClassification, AutoTokenizer
folder = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(folder)
batch = tokenizer(["w1 w2", "w3 w4 w5"], ["w6", "w7"], padding=True, return_tensors="pt")
model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
print(tuple(model(**batch).logits.shape), sorted(batch))
assert "pretrain" not in sys.modules
"""


def test_finetuning_loads_it_without_this_project(tokenizer, tmp_path):
    folder = _export(_model(), _args(), tokenizer, tmp_path / "model")
    command = [sys.executable, "-c", FRESH_PROCESS, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(2, 3) ['attention_mask', 'input_ids', 'token_type_ids']"


def test_exporting_again_replaces_the_folder_whole(tokenizer, tmp_path):
    folder = _export(_model(), _args(), tokenizer, tmp_path / "model")
    (folder / "left_over").touch()
    _export(_model(), _args(), tokenizer, folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_vocabulary(tokenizer, tmp_path):
    vocabulary = read_vocabulary(tokenizer)
    assert vocabulary.size == 61
    assert vocabulary.special_ids == {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    assert find_tokenizer(tokenizer.parent, "another", tmp_path) == tokenizer
    with pytest.raises(FileNotFoundError, match="--tokenizer_name"):
        find_tokenizer(tmp_path, "", tmp_path)
