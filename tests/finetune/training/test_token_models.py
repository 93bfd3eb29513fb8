"""Models with a head for each token: every architecture, its faster layers, and its gradients."""

import numpy as np
import pytest
import torch

from finetune.training import acceleration
from finetune.training.acceleration import accelerate
from finetune.training.device_model import DeviceModel
from finetune.training.loop import _Trainer
from tests.finetune.task_types.test_token_labels import TASK, TYPE, encoded
from tests.finetune.task_types.tokenizers_of_words import TOKENIZERS
from tests.finetune.training.test_training import (
    ARCHITECTURES,
    NO_DROPOUT,
    SETTINGS,
    gradients,
    inputs,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def build(name: str, **changes):
    from transformers import AutoConfig, AutoModelForTokenClassification

    from pretrain.model.modeling_extremebert import register

    register()
    config = AutoConfig.for_model(name, **(ARCHITECTURES[name] | NO_DROPOUT | changes))
    torch.manual_seed(0)
    return AutoModelForTokenClassification.from_config(config)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_faster_layers_compute_the_same(name, monkeypatch):
    monkeypatch.setattr(
        "pretrain.kernels.linear.prefers_onednn", torch.backends.mkldnn.is_available
    )
    stock, fast = build(name), build(name)
    accelerate(fast, half=False)
    (ours, of_ours), (theirs, of_theirs) = (
        gradients(model.train(), inputs()) for model in (fast, stock)
    )
    assert ours.shape == (4, 12, 3)
    real = inputs()["attention_mask"].bool()
    torch.testing.assert_close(ours[real], theirs[real], atol=1e-5, rtol=1e-5)
    assert of_ours.keys() == of_theirs.keys()


def test_our_own_loss_is_that_of_the_others():
    batch = inputs()
    labels = torch.randint(0, 3, (4, 12)).where(batch["attention_mask"].bool(), torch.tensor(-100))
    output = build("extreme-bert").eval()(**batch, labels=labels)
    expected = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize("name", ["bert", "extreme-bert"])
def test_accumulated_gradients_are_those_of_the_batch(name, monkeypatch):
    monkeypatch.setattr(acceleration, "prefers_bf16", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    sentences = [["Mary", "Ann"] * n for n in (9, 1, 4)] + [["\u200b"]]
    tags = [["B-PER", "I-PER"] * n for n in (9, 1, 4)] + [["O"]]
    data = encoded("word_piece", sentences, tags)

    def grads(parts: int):
        model = build(name, vocab_size=60, num_labels=5, pad_token_id=0)
        trainer = _Trainer(
            DeviceModel(model, TOKENIZERS["word_piece"]),
            data,
            SETTINGS,
            TYPE,
            None,
            lambda line: None,
        )
        trainer.num_parts = parts
        model.train()
        loss = trainer._accumulate(np.arange(len(data)))
        return loss, [p.grad for p in model.parameters() if p.grad is not None]

    whole, parts = grads(1), grads(len(data))  # one of them without any label
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-4)


def test_a_batch_without_labels_teaches_nothing(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    data = encoded("word_piece", [["\u200b"]], [["O"]])
    model = build("bert", vocab_size=60, num_labels=5, pad_token_id=0)
    on_device = DeviceModel(model, TOKENIZERS["word_piece"])
    trainer = _Trainer(on_device, data, SETTINGS, TYPE, None, lambda line: None)
    assert trainer.step(np.arange(1)).item() == 0
    outputs = on_device.predict(data, 100)
    assert TYPE.predictions(TASK, outputs, data, {}) == [("0", "O")]
