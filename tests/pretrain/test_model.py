"""The model against transformers' own, its initialisation, and the padding of its vocabulary."""

from argparse import Namespace

import pytest
import torch

from pretrain import flags
from pretrain.artifact import num_parameters
from pretrain.model import ACTIVATIONS, PADDING_LOGIT, BasePretrainModel, padded_vocab_size

SIZES = Namespace(
    model_type="bert-mlm",
    encoder_ln_mode="pre-ln",
    vocab_size=61,
    max_seq_length=16,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=48,
    hidden_act="gelu",
    hidden_dropout_prob=0.1,
    attention_probs_dropout_prob=0.1,
    initializer_range=0.02,
    layer_norm_eps=1e-12,
)


def _args(**changes):
    return Namespace(**{**vars(SIZES), **changes})


def _model(**changes):
    torch.manual_seed(0)
    return BasePretrainModel(_args(**changes))


def _batch():
    """Three rows of 16 tokens, one of them with 5 of padding; two segments; 4 predictions."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(5, 61, (3, 16), generator=generator)
    attention_mask = torch.ones(3, 16, dtype=torch.bool)
    attention_mask[1, 11:] = False
    input_ids[1, 11:] = 0
    segment_ids = (torch.arange(16) > 7).long().expand(3, 16) * attention_mask
    prediction_index = torch.tensor([3, 16 + 4, 16 + 10, 32 + 15])
    return input_ids, segment_ids, attention_mask, prediction_index


def test_loss_is_the_mean_cross_entropy_of_the_predictions():
    model = _model().eval()
    labels = torch.tensor([7, 8, 9, 60])
    logits = model.logits(*_batch())[:, :61]
    expected = -logits.log_softmax(-1)[torch.arange(4), labels].mean()
    torch.testing.assert_close(model(*_batch(), labels), expected)


def test_a_micro_batch_without_predictions_costs_nothing():
    none = torch.zeros(0, dtype=torch.int64)
    assert _model()(*_batch()[:3], none, none).item() == 0.0


@pytest.mark.parametrize("mode", ["pre-ln", "post-ln"])
def test_padding_does_not_reach_real_tokens(mode):
    model = _model(encoder_ln_mode=mode).eval()
    input_ids, segment_ids, mask, index = _batch()
    alone = model.logits(input_ids[1:2, :11], segment_ids[1:2, :11], None, torch.tensor([4, 10]))
    padded = model.logits(input_ids, segment_ids, mask, index)[1:3]
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["pre-ln", "post-ln"])
def test_packed_rows_give_each_sample_what_it_gives_alone(mode):
    model = _model(encoder_ln_mode=mode).eval()
    input_ids, segment_ids, _, _ = _batch()
    number = torch.tensor([1] * 5 + [2] * 8 + [0] * 3)
    positions = torch.tensor([*range(5), *range(8), *range(3)])[None]
    attends = (number[:, None] == number)[None]
    row = input_ids[:1], segment_ids[:1]
    packed = model.logits(*row, attends, torch.tensor([1, 4, 5, 12]), positions)
    first = model.logits(row[0][:, :5], row[1][:, :5], None, torch.tensor([1, 4]))
    second = model.logits(row[0][:, 5:13], row[1][:, 5:13], None, torch.tensor([0, 7]))
    torch.testing.assert_close(packed, torch.cat([first, second]), atol=1e-5, rtol=1e-5)


def test_the_padding_of_the_vocabulary_never_wins_nor_learns():
    model = _model()
    assert padded_vocab_size(61) == 64 and padded_vocab_size(64) == 64
    logits = model.logits(*_batch())
    assert logits.shape == (4, 64) and (logits[:, 61:] < -9e3).all()
    model(*_batch(), torch.tensor([7, 8, 9, 60])).backward()
    assert (model.head.bias.grad[61:] == 0).all()
    assert (model.embeddings.word.weight.grad[61:] == 0).all()
    assert (model.head.bias.grad[:61] != 0).all()  # the output bias is in use


def test_every_matrix_is_initialised_as_berts_and_every_bias_is_zero():
    model = _model(hidden_size=128, intermediate_size=256, initializer_range=0.05)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and parameter.numel() > 1000:
            assert parameter.std().item() == pytest.approx(0.05, rel=0.05), name
            assert abs(parameter.mean().item()) < 0.002, name
        elif "norm" in name and name.endswith("weight"):
            assert (parameter == 1).all(), name
        elif name.endswith("bias"):
            assert ((parameter == 0) | (parameter == PADDING_LOGIT)).all(), name


@pytest.mark.parametrize("mode", ["pre-ln", "post-ln"])
def test_number_of_parameters_by_formula(mode):
    model = _model(encoder_ln_mode=mode)
    padding = 3 * 32 + 3  # rows of the word embeddings and of the output bias
    counted = sum(parameter.numel() for parameter in model.parameters()) - padding
    assert num_parameters(61, 16, 32, 3, 48, mode == "pre-ln") == counted


def test_dropout_only_in_training():
    model = _model(hidden_dropout_prob=0.5)
    assert not torch.equal(model.logits(*_batch()), model.logits(*_batch()))
    model.eval()
    assert torch.equal(model.logits(*_batch()), model.logits(*_batch()))


def test_attention_dropout_reaches_attention():
    model = _model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5)
    assert not torch.equal(model.logits(*_batch()), model.logits(*_batch()))


@pytest.mark.parametrize(
    ("flag", "value"),
    [("model_type", "gpt"), ("encoder_ln_mode", "mid"), ("hidden_act", "x"), ("hidden_size", 30)],
)
def test_impossible_models_are_refused_by_the_flags_name(flag, value):
    with pytest.raises(ValueError, match=flag):
        _model(**{flag: value})


def test_flags_offer_every_activation():
    assert tuple(ACTIVATIONS) == flags.ACTIVATIONS
