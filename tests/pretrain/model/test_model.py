"""What the model promises: its loss, its masks, its initialisation, and the same under every mode.

That it computes what transformers' models do is in test_export.py.
"""

from argparse import Namespace

import pytest
import torch

from configs import defaults
from pretrain.estimate import num_parameters
from pretrain.kernels.linear import multiply_in_bf16
from pretrain.model.encoder import ACTIVATIONS, rotate, rotation, turned_pairs
from pretrain.model.model import (
    BasePretrainModel,
    build_model,
    padded_vocab_size,
)

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
    glu=False,
    position_embedding_type="absolute",
    rope_theta=10000.0,
    attention_window=0,
    global_attention_every=3,
    use_bias=True,
    norm_type="layernorm",
    embedding_norm=True,
    pad_vocab_to_multiple_of=8,
    hidden_dropout_prob=0.1,
    attention_probs_dropout_prob=0.1,
    initializer_range=0.02,
    residual_init="same",
    layer_norm_eps=1e-12,
    gradient_checkpointing=False,
)
MODERN = {"position_embedding_type": "rotary", "glu": True}
VARIANTS = {
    "pre-ln": {},
    "post-ln": {"encoder_ln_mode": "post-ln"},
    "modernbert": MODERN,
    "modernbert without biases": {**MODERN, "use_bias": False},
    "swiglu rmsnorm": {**MODERN, "norm_type": "rmsnorm", "use_bias": False, "hidden_act": "silu"},
    "rotary post-ln": {**MODERN, "encoder_ln_mode": "post-ln", "hidden_act": "silu"},
    "no embedding norm": {"position_embedding_type": "rotary", "embedding_norm": False},
    "windows": {**MODERN, "attention_window": 6, "global_attention_every": 2},
    "absolute windows": {"attention_window": 6, "global_attention_every": 2},
    "absolute glu": {"glu": True, "norm_type": "rmsnorm"},
}
every_variant = pytest.mark.parametrize("changes", VARIANTS.values(), ids=list(VARIANTS))


def model_args(**changes):
    return Namespace(**{**vars(SIZES), **changes})


def seeded_model(**changes):
    torch.manual_seed(0)
    return BasePretrainModel(model_args(**changes))


def example_batch():
    """Three rows of 16 tokens, one of them with 5 of padding; two segments; 4 predictions."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(5, 61, (3, 16), generator=generator)
    attention_mask = torch.ones(3, 16, dtype=torch.bool)
    attention_mask[1, 11:] = False
    input_ids[1, 11:] = 0
    segment_ids = (torch.arange(16) > 7).long().expand(3, 16) * attention_mask
    prediction_index = torch.tensor([3, 16 + 4, 16 + 10, 32 + 15])
    return input_ids, segment_ids, attention_mask, prediction_index


LABELS = torch.tensor([7, 8, 9, 60])


def gradients(model, labels=LABELS):
    torch.manual_seed(3)
    model(*example_batch(), labels).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@every_variant
def test_loss_is_the_mean_cross_entropy_of_the_predictions(changes):
    model = seeded_model(**changes).eval()
    logits = model(*example_batch())[:, :61]
    expected = -logits.log_softmax(-1)[torch.arange(4), LABELS].mean()
    torch.testing.assert_close(model(*example_batch(), LABELS), expected)


def test_a_micro_batch_without_predictions_costs_nothing():
    none = torch.zeros(0, dtype=torch.int64)
    assert seeded_model()(*example_batch()[:3], none, none).item() == 0.0


@every_variant
def test_padding_does_not_reach_real_tokens(changes):
    model = seeded_model(**changes).eval()
    input_ids, segment_ids, mask, index = example_batch()
    alone = model(input_ids[1:2, :11], segment_ids[1:2, :11], None, torch.tensor([4, 10]))
    padded = model(input_ids, segment_ids, mask, index)[1:3]
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=1e-5)


@every_variant
def test_packed_rows_give_each_sample_what_it_gives_alone(changes):
    model = seeded_model(**changes).eval()
    input_ids, segment_ids, _, _ = example_batch()
    number = torch.tensor([1] * 5 + [2] * 8 + [0] * 3)
    positions = torch.tensor([*range(5), *range(8), *range(3)])[None]
    row = input_ids[:1], segment_ids[:1]
    packed = model(*row, number[None], torch.tensor([1, 4, 5, 12]), None, positions)
    first = model(row[0][:, :5], row[1][:, :5], None, torch.tensor([1, 4]))
    second = model(row[0][:, 5:13], row[1][:, 5:13], None, torch.tensor([0, 7]))
    torch.testing.assert_close(packed, torch.cat([first, second]), atol=1e-5, rtol=1e-5)


@every_variant
def test_the_order_of_tokens_matters(changes):
    model = seeded_model(**{**changes, "initializer_range": 0.5}).eval()
    input_ids, segment_ids, _, _ = example_batch()
    segment_ids, last = torch.zeros_like(segment_ids[:1]), torch.tensor([15])
    swapped = input_ids[:1].clone()
    swapped[:, [2, 9]] = swapped[:, [9, 2]]
    difference = model(input_ids[:1], segment_ids, None, last) - model(
        swapped, segment_ids, None, last
    )
    assert difference.abs().max() > 1e-3


def test_the_padding_of_the_vocabulary_never_wins_nor_learns():
    model = seeded_model()
    assert padded_vocab_size(61, 8) == padded_vocab_size(64, 8) == 64
    assert padded_vocab_size(61, 1) == 61
    logits = model(*example_batch())
    assert logits.shape == (4, 64) and (logits[:, 61:] < -9e3).all()
    gradient = gradients(model)
    assert (gradient["encoder.embeddings.word.weight"][61:] == 0).all()
    assert gradient["output_bias"].shape == (61,)
    assert (gradient["output_bias"] != 0).all()  # the output bias is in use


@every_variant
def test_every_matrix_is_initialised_as_berts_and_every_bias_is_zero(changes):
    sizes = {"hidden_size": 128, "intermediate_size": 256, "initializer_range": 0.05}
    for name, parameter in seeded_model(**changes, **sizes).named_parameters():
        if parameter.ndim == 2 and parameter.numel() > 1000:
            assert parameter.std().item() == pytest.approx(0.05, rel=0.05), name
            assert abs(parameter.mean().item()) < 4 * 0.05 / parameter.numel() ** 0.5, name
        elif "norm" in name and name.endswith("weight"):
            assert (parameter == 1).all(), name
        elif name.endswith("bias"):
            assert (parameter == 0).all(), name


@every_variant
def test_number_of_parameters_by_formula(changes):
    padding = 3 * 32  # rows of the word embeddings
    keys = {name.upper(): value for name, value in vars(model_args(**changes)).items()}
    counted = sum(parameter.numel() for parameter in seeded_model(**changes).parameters())
    assert num_parameters(keys, 61, 16) == counted - padding


def test_without_biases_only_that_of_the_output_is_left():
    names = [name for name, _ in seeded_model(use_bias=False).named_parameters()]
    assert [name for name in names if "bias" in name] == ["output_bias"]


@pytest.mark.slow
def test_every_parameter_is_trained():
    for changes in VARIANTS.values():
        for name, gradient in gradients(seeded_model(**changes)).items():
            assert gradient is not None and gradient.any(), (changes, name)


@pytest.mark.slow
@every_variant
def test_gradient_checkpointing_changes_no_gradient(changes):
    expected = gradients(seeded_model(**changes))
    found = gradients(seeded_model(**changes, gradient_checkpointing=True))
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=0, rtol=0, msg=name)


def test_dropout_only_in_training():
    model = seeded_model(hidden_dropout_prob=0.5)
    assert not torch.equal(model(*example_batch()), model(*example_batch()))
    model.eval()
    assert torch.equal(model(*example_batch()), model(*example_batch()))


def test_attention_dropout_reaches_attention():
    model = seeded_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5)
    assert not torch.equal(model(*example_batch()), model(*example_batch()))


@pytest.mark.slow
@every_variant
@pytest.mark.parametrize("mode", ["half", "bfloat16", "autocast"])
def test_low_precision_stays_close_and_the_loss_is_fp32(changes, mode):
    model = seeded_model(**changes).eval()
    expected = model(*example_batch(), LABELS)
    if mode != "autocast":
        model = getattr(model, mode)()
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        loss = model(*example_batch(), LABELS)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, atol=0.05, rtol=0.0)


def test_positions_keep_their_precision_in_fp16():
    """Of angles in fp16, those of late positions would be off by whole radians."""
    model = seeded_model(**MODERN, max_seq_length=4096).eval()
    positions = torch.arange(4080, 4096).expand(3, 16)
    expected = model(*example_batch(), LABELS, positions)
    found = model.half()(*example_batch(), LABELS, positions)
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_rotation_of_a_gpu_is_that_of_the_cpu(dtype):
    """But for a rounding more of what lies below fp32."""
    vectors = torch.randn(2, 16, 2, 4, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    cos, sin = rotation(torch.arange(4080, 4096), 8, 10000.0)
    expected = rotate(vectors, (cos, sin))
    found = turned_pairs(vectors, cos, sin, 1)
    assert found.dtype == dtype
    error = (found.double() - expected.double()).abs().max()
    assert error <= 4 * torch.finfo(dtype).eps and (error == 0) == (dtype == torch.float32)
    back = turned_pairs(found, cos, sin, -1)
    assert (back.double() - vectors.double()).abs().max() <= 8 * torch.finfo(dtype).eps


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"attention_window": 6, "global_attention_every": 2}])
def test_compiled_it_computes_the_same(changes):
    model = seeded_model(**MODERN, **changes, num_hidden_layers=2).eval()
    expected = gradients(model)
    model.zero_grad()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*example_batch()), model(*example_batch()))
    compiled(*example_batch(), LABELS).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], msg=name)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("encoder_ln_mode", "mid"),
        ("hidden_act", "x"),
        ("hidden_size", 30),
        ("position_embedding_type", "none"),
        ("norm_type", "batchnorm"),
        ("pad_vocab_to_multiple_of", 0),
    ],
)
def test_impossible_models_are_refused_by_the_flags_name(flag, value):
    with pytest.raises(ValueError, match=flag):
        build_model(model_args(**{flag: value}))


def test_rotary_positions_need_an_even_head_and_a_base():
    with pytest.raises(ValueError, match="num_attention_heads"):
        seeded_model(**MODERN, hidden_size=12)
    with pytest.raises(ValueError, match="rope_theta"):
        seeded_model(**MODERN, rope_theta=0.0)


def test_unknown_types_are_refused_with_names_that_come_close():
    with pytest.raises(ValueError, match=r"model_type: .* modernbrt; did you mean modernbert"):
        build_model(model_args(model_type="modernbrt"))


def test_the_config_offers_every_activation():
    assert tuple(ACTIVATIONS) == defaults.ACTIVATIONS


@pytest.mark.parametrize(("how", "std"), [("same", 0.02), ("scaled", 0.02 / 6**0.5), ("zero", 0)])
def test_residual_init(how, std):
    sizes = {"hidden_size": 128, "intermediate_size": 256, "residual_init": how}
    model = seeded_model(**sizes)
    for layer in model.encoder.layers:
        for sublayer in (layer.attention, layer.feed_forward):
            assert sublayer.output.weight.std().item() == pytest.approx(std, rel=0.05)
    first = model.encoder.layers[0].feed_forward.input
    assert first.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_a_model_that_knows_the_frequencies_alone_has_their_entropy():
    counts = torch.randint(0, 50, (61,), generator=torch.Generator().manual_seed(0))
    model = seeded_model(initializer_range=1e-9).eval()
    model.set_output_bias(counts)
    labels = torch.repeat_interleave(torch.arange(61), counts)
    index = torch.zeros(len(labels), dtype=torch.int64)
    batch = torch.full((1, 16), 7), torch.zeros(1, 16, dtype=torch.int64), None
    shares = counts[counts > 0] / counts.sum()
    entropy = -(shares * shares.log()).sum().item()
    assert model(*batch, index, labels).item() == pytest.approx(entropy, rel=2e-3)


@every_variant
def test_bf16_products_stay_close_in_training_alone(changes):
    changes = {**changes, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    exact, half = seeded_model(**changes), seeded_model(**changes)
    multiply_in_bf16(half)
    batch = *example_batch(), torch.tensor([5, 6, 7, 8])
    losses, gradients = [], []
    for model in (exact, half):
        loss = model.train()(*batch)
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        assert torch.equal(model.eval()(*batch), exact.eval()(*batch))
    assert losses[1] == pytest.approx(losses[0], rel=2e-3) and losses[0] != losses[1]
    assert (gradients[1] - gradients[0]).norm() < 0.03 * gradients[0].norm()
