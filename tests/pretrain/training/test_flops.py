"""The formula against what torch counts in a real step, and the peak's order of magnitude."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pretrain.flags import build_parser
from pretrain.kernels import linear
from pretrain.kernels.attention import Documents
from pretrain.model.model import BasePretrainModel
from pretrain.settings import ModelSettings
from pretrain.training.flops import matmul_peak, training_flops

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 61,
    "max_seq_length": 16,
}
BERT_BASE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "intermediate_size": 3072,
    "vocab_size": 30522,
}


@pytest.fixture(autouse=True)
def products_of_torch(monkeypatch):
    """torch does not count those of oneDNN."""
    monkeypatch.setattr(linear, "prefers_onednn", lambda: False)


def _args(**changes):
    return ModelSettings.from_args(build_parser().parse_args([]), **(SIZES | changes))


def _counted(args, num_sequences, num_predictions, mask=None):
    """Operations of forward and backward pass, as torch sees them."""
    model = BasePretrainModel(args)
    ids = torch.randint(5, 61, (num_sequences, args.max_seq_length))
    index = torch.arange(num_predictions) * 3
    labels = ids.flatten()[index]
    with FlopCounterMode(display=False) as counter:
        model(ids, torch.zeros_like(ids), mask, index, labels).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("glu", [False, True])
@pytest.mark.parametrize("multiple", [1, 64])
def test_formula_is_what_a_step_computes(glu, multiple):
    # With dropout attention is made of products that torch counts one by one.
    args = _args(glu=glu, pad_vocab_to_multiple_of=multiple, attention_probs_dropout_prob=0.1)
    assert training_flops(args, 3, 16, 7) == _counted(args, 3, 7)


def test_layers_with_a_window_attend_to_that_many_tokens():
    """Of 4 layers, the first and the fourth attend to all."""
    args = _args(num_hidden_layers=4, attention_window=10, global_attention_every=3)
    fewer = 3 * 2 * 4 * 32 * 3 * (16 * 16 - 16 * 11)
    plain = training_flops(_args(num_hidden_layers=4), 3, 16, 7)
    assert training_flops(args, 3, 16, 7) == plain - fewer
    wide = _args(num_hidden_layers=4, attention_window=100)
    assert training_flops(wide, 3, 16, 7) == plain


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [(600,), (200, 300, 100)])
def test_documents_attend_to_themselves_alone(lengths):
    args = _args(max_seq_length=600, attention_probs_dropout_prob=0.1)
    documents = Documents.of(lengths, None)
    pairs = sum(length**2 for length in lengths)
    assert training_flops(args, 1, 600, 7, pairs) == _counted(args, 1, 7, documents)


def test_what_checkpointing_computes_again_is_not_counted():
    plain, again = _args(), _args(gradient_checkpointing=True)
    assert (
        training_flops(again, 3, 16, 7) == training_flops(plain, 3, 16, 7) < _counted(again, 3, 7)
    )


def test_published_size_of_a_step():
    """6 operations per token and weight, of which the layers of BERT-base have 85 million."""
    flops = training_flops(_args(**BERT_BASE), 1, 128, 0)
    scores = 3 * 12 * 4 * 128 * 128 * 768
    assert flops == 6 * 84_934_656 * 128 + scores


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_peak_is_that_of_a_processor(dtype):
    assert 1e7 < matmul_peak(torch.device("cpu"), dtype, seconds=0.01) < 1e15
