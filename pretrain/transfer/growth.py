"""Weights of a larger model from those of a smaller one.

Wider: the rows and columns of each matrix are tiled from the middle. The small matrix lies in the
centre of the large one, and repeats itself towards the edges, as in Phi-2 and ModernBERT-large
(Warner et al., 2024). Queries, keys and values are tiled apart, by whole heads; so are the halves
of a gated feed-forward layer. A column that repeats n times is divided into n parts, so the product
stays the same (Net2Net, Chen et al., 2016), and a model of a multiple of the width computes what
the small one does. The parts differ at random: without dropout, equal ones receive equal gradients
and stay equal for ever (LEMON, Wang et al., 2024).

Deeper: target layer t is source layer floor(t * small / large), as in Gopher (Rae et al., 2021), so
copies follow their original: 2 layers grow to 0 0 1 1. With windows, this holds for the layers with
a window and for those without one apart.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from pretrain.model.architectures import LAYER
from pretrain.settings import ModelSettings
from pretrain.transfer.growth_check import problems_of_growth

# The axes of a module's weight: outputs, inputs. A bias has the first alone.
AXES = {
    "attention.qkv": ("heads", "width"),
    "attention.output": ("width", "heads"),
    "feed_forward.input": ("inner", "width"),
    "feed_forward.output": ("width", "inner"),
    "head.dense": ("width", "width"),
    "encoder.embeddings.word": ("", "width"),
    "encoder.embeddings.position": ("", "width"),
    "encoder.embeddings.segment": ("", "width"),
    "encoder.embeddings.unused_position": ("", "width"),
    "output_bias": ("",),
}
NORM_AXES = ("width",)  # of all other modules


def grow_weights(
    weights: Mapping[str, Tensor], small: ModelSettings, large: ModelSettings, seed: int
) -> dict[str, Tensor]:
    """Returns the state dict of BasePretrainModel for the larger settings.

    weights: its state dict for the smaller settings. Vocabulary and positions keep their size. At
    equal sizes, every tensor is returned unchanged. seed: of the differences between copies. Raises
    ValueError naming a size that does not fit.
    """
    for name, problem in problems_of_growth(vars(small), vars(large)):
        raise ValueError(f"{name}: {problem}")
    tiles, generator = _tiles(small, large), torch.Generator().manual_seed(seed)
    grown: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if not LAYER.fullmatch(name):
            grown[name] = _widened(name.rpartition(".")[0] or name, tensor, tiles, generator)
    for target, source in enumerate(source_layers(small, large)):
        for part, tensor in _layer(weights, source, is_first=target == 0).items():
            wide = _widened(part.rpartition(".")[0], tensor, tiles, generator)
            grown[f"encoder.layers.{target}.{part}"] = wide
    return grown


def _layer(weights: Mapping[str, Tensor], number: int, is_first: bool) -> dict[str, Tensor]:
    """Returns the tensors of a layer by their names within it.

    Copies of a first layer without attention norm get one, as a first layer alone lacks it.
    """
    found = ((LAYER.fullmatch(name), tensor) for name, tensor in weights.items())
    own = {match[2]: tensor for match, tensor in found if match and int(match[1]) == number}
    if not is_first:
        for kind, fresh in (("weight", torch.ones_like), ("bias", torch.zeros_like)):
            norm = own.get(f"feed_forward_norm.{kind}")
            if norm is not None:
                own.setdefault(f"attention_norm.{kind}", fresh(norm))
    return own


def source_layers(small: ModelSettings, large: ModelSettings) -> list[int]:
    """Returns the source layer of each layer of the larger model."""
    sources = [-1] * large.num_hidden_layers
    for has_window in (False, True):
        targets, found = (
            [n for n in range(settings.num_hidden_layers) if _has_window(settings, n) == has_window]
            for settings in (large, small)
        )
        for rank, target in enumerate(targets):
            sources[target] = found[rank * len(found) // len(targets)] if found else -1
    # Only a model of few layers has none with a window; then the layer at the same height.
    every = small.num_hidden_layers, large.num_hidden_layers
    return [s if s >= 0 else t * every[0] // every[1] for t, s in enumerate(sources)]


def _has_window(settings: ModelSettings, number: int) -> bool:
    return settings.attention_window > 0 and number % settings.global_attention_every > 0


def _tiles(small: ModelSettings, large: ModelSettings) -> dict[str, Tensor]:
    """Returns the small index of each large index, int64, by axis."""
    head_dim = small.hidden_size // small.num_attention_heads
    heads = tile(small.num_attention_heads, large.num_attention_heads)
    inside = torch.arange(head_dim)
    return {
        "width": tile(small.hidden_size, large.hidden_size),
        "heads": (heads[:, None] * head_dim + inside).flatten(),
        "inner": tile(small.intermediate_size, large.intermediate_size),
    }


def tile(small: int, large: int) -> Tensor:
    """Returns the small index of each large index, int64 [large], tiled from the middle."""
    return (torch.arange(large) - (large - small) // 2) % small


def _widened(
    module: str, tensor: Tensor, tiles: Mapping[str, Tensor], generator: torch.Generator
) -> Tensor:
    """Returns a tensor of the larger width. module: a key of AXES, or a norm."""
    axes = AXES.get(module, NORM_AXES)[: tensor.dim()]
    for dim, axis in enumerate(axes):
        if not axis:
            continue
        index = tiles[axis]
        # Queries, keys and values, or the halves of a gated layer.
        blocks = tensor.unflatten(dim, (-1, int(index.max()) + 1))
        tensor = blocks.index_select(dim + 1, index).flatten(dim, dim + 1)
        # The product with the word embeddings sums over the width too, after the head's norm.
        if module == "head.norm":
            tensor = tensor / _num_copies(index)
        elif dim == 1 and not module.startswith("encoder.embeddings"):
            tensor = _divided(tensor, index, generator)
    return tensor


def _num_copies(index: Tensor) -> Tensor:
    """Returns the number of columns with the same source as each column, fp32."""
    return torch.bincount(index)[index].float()


def _divided(tensor: Tensor, index: Tensor, generator: torch.Generator) -> Tensor:
    """Divides equal columns into different ones with the same sum and the same spread.

    tensor: [outputs, columns]. index: the source of each column.
    """
    copies = _num_copies(index)
    noise = torch.randn(tensor.shape, generator=generator)
    sums = torch.zeros(len(tensor), int(index.max()) + 1).index_add_(1, index, noise)
    noise -= sums[:, index] / copies
    # Without its mean, the noise of n columns has the variance 1 - 1 / n, and the divided columns
    # 1 / n^2 of the former one.
    spread = tensor.std() * ((copies + 1) / copies).sqrt() * (copies > 1)
    return tensor / copies + spread * noise
