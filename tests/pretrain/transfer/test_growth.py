"""A larger model from a smaller one."""

from dataclasses import replace

import pytest
import torch

from pretrain.model.model import BasePretrainModel
from pretrain.settings import ModelSettings
from pretrain.transfer.growth import grow_weights, source_layers, tile

SMALL = ModelSettings(
    model_type="bert-mlm",
    vocab_size=50,
    max_seq_length=16,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    hidden_act="gelu",
    encoder_ln_mode="post-ln",
    position_embedding_type="absolute",
    rope_theta=10000.0,
    attention_window=0,
    global_attention_every=3,
    glu=False,
    use_bias=True,
    norm_type="layernorm",
    embedding_norm=True,
    pad_vocab_to_multiple_of=8,
    hidden_dropout_prob=0.1,
    attention_probs_dropout_prob=0.1,
    initializer_range=0.2,
    residual_init="same",
    layer_norm_eps=1e-12,
    gradient_checkpointing=False,
)
MODERN = replace(SMALL, encoder_ln_mode="pre-ln", position_embedding_type="rotary", glu=True)
KINDS = {
    "bert": SMALL,
    "modernbert": replace(MODERN, use_bias=False),
    "rmsnorm": replace(MODERN, norm_type="rmsnorm", embedding_norm=False),
}
WIDER = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 36}


def _model(settings, weights=None):
    torch.manual_seed(3)
    model = BasePretrainModel(settings).eval()
    if weights is None:  # biases and norms too
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.2)
    else:
        model.load_state_dict(weights)
    return model


def _logits(model):
    ids = torch.randint(0, 50, (3, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(ids, torch.zeros_like(ids), None, torch.arange(0, 48, 5))[:, :50]


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_a_model_of_the_same_size_stays_as_it_is(settings):
    weights = _model(settings).state_dict()
    grown = grow_weights(weights, settings, settings, 0)
    assert grown.keys() == weights.keys()
    assert all(torch.equal(grown[name], weights[name]) for name in weights)


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_a_model_of_a_multiple_of_the_width_computes_the_same(settings):
    small, larger = _model(settings), replace(settings, **WIDER)
    wide = _model(larger, grow_weights(small.state_dict(), settings, larger, 0))
    torch.testing.assert_close(_logits(wide), _logits(small), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_a_deeper_model_holds_every_layer_intact(settings):
    weights, deeper = _model(settings).state_dict(), replace(settings, num_hidden_layers=5)
    grown = grow_weights(weights, settings, deeper, 0)
    _model(deeper, grown)  # every tensor is there
    for target, source in enumerate(source_layers(settings, deeper)):
        for name, tensor in weights.items():
            if name.startswith(f"encoder.layers.{source}."):
                copy = name.replace(f"layers.{source}.", f"layers.{target}.")
                if copy in grown:  # the first layer may lack a norm
                    assert torch.equal(grown[copy], tensor)


def test_copies_learn_different_things(one_thread):
    small = replace(SMALL, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    larger = replace(small, **WIDER)
    model = _model(larger, grow_weights(_model(small).state_dict(), small, larger, 0)).train()
    ids = torch.arange(48).view(3, 16)
    model(ids, torch.zeros_like(ids), None, torch.arange(0, 48, 5), ids.flatten()[::5]).backward()
    copies = tile(8, 16).argsort(stable=True).view(8, 2)
    for name, dim in (("encoder.embeddings.word", 1), ("encoder.layers.0.feed_forward.output", 0)):
        gradient = model.get_parameter(f"{name}.weight").grad
        first, second = (gradient.index_select(dim, copies[:, n]) for n in (0, 1))
        assert (first - second).norm() > 0.1 * first.norm()


def test_other_sizes_load_too():
    larger = replace(SMALL, hidden_size=20, num_attention_heads=5, intermediate_size=31)
    _model(larger, grow_weights(_model(SMALL).state_dict(), SMALL, larger, 0))


def test_tiles_begin_in_the_middle():
    assert tile(3, 8).tolist() == [1, 2, 0, 1, 2, 0, 1, 2]
    assert tile(4, 4).tolist() == [0, 1, 2, 3]


def test_layers_repeat_within_their_kind():
    assert source_layers(SMALL, replace(SMALL, num_hidden_layers=5)) == [0, 0, 0, 1, 1]
    windows = replace(SMALL, num_hidden_layers=6, attention_window=4)  # global: 0 and 3
    sources = source_layers(windows, replace(windows, num_hidden_layers=9))
    assert sources == [0, 1, 1, 0, 2, 4, 3, 4, 5]
    assert source_layers(windows, windows) == list(range(6))


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"num_hidden_layers": 1}, "num_hidden_layers: cannot grow to 1, expected at least 2"),
        (
            {"hidden_size": 16},
            "num_attention_heads: heads keep their size 4, got 2 for a width of 16, expected 4",
        ),
    ],
)
def test_what_does_not_grow_is_named(changed, problem):
    with pytest.raises(ValueError, match=problem):
        grow_weights(_model(SMALL).state_dict(), SMALL, replace(SMALL, **changed), 0)
