"""Attention patterns: the pairs of tokens that attend to each other, with a fast kernel for each.

Each forward pass makes one or two patterns, for all layers. `Dense` adds a bias to the scores of
all pairs of tokens. The others are for rows of at least LONG_ROW tokens, with memory linear in
their length: `Flash` and `ByDocument` skip pairs of different documents, `Flash` and `Windows`
distant pairs.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pretrain.kernels.dropout import attention_bias

LONG_ROW = 512
# Queries per piece of a long document, if attention keeps its weights: the backward pass recomputes
# the weights of one piece at a time.
QUERIES = 512
MIN_BLOCK = 64  # queries per block of a window: smaller products are no faster
# Head sizes of torch's flash attention; GPUs of capability 8.6, 8.9 and 12 train at most 192.
FLASH_HEAD_MULTIPLE, FLASH_MAX_HEAD = 8, 192
AMPERE = (8, 0)

# (query, key, value, bias, dropout) -> output, all but the bias [batch, heads, length, head_dim];
# bias: None, or added to the scores, broadcastable to [batch, heads, queries, keys].
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]


class Documents(NamedTuple):
    """Consecutive documents in a batch of rows; none continues in the next row.

    lengths: tokens of each, padding included. longest: at least the length of the longest. bounds:
    int32 [documents + 1], the begin of each in the concatenated rows, and the end of the last.
    numbers: [batch, length], the document's number in its row, 0 (False) in padding, or None if
    each row is one document.
    """

    lengths: tuple[int, ...]
    longest: int
    bounds: Tensor
    numbers: Tensor | None

    @classmethod
    def of(cls, lengths: Sequence[int], numbers: Tensor | None) -> "Documents":
        bounds = torch.tensor([0, *lengths]).cumsum(0).int()
        # A power of two, since torch.compile recompiles for each value.
        longest = 1 << (max(lengths) - 1).bit_length()
        return cls(tuple(lengths), longest, bounds, numbers)

    def changed(self, change: Callable[[Tensor], Tensor]) -> "Documents":
        """Returns a copy with each tensor changed, e.g. moved to another device."""
        numbers = None if self.numbers is None else change(self.numbers)
        return self._replace(bounds=change(self.bounds), numbers=numbers)


# --- the patterns ----------------------------------------------------------------------------
#
# Each has attend(query, key, value, attend, dropout), with arguments and result [batch, length,
# heads, head_dim]. The argument attend is the kernel of patterns without one of their own.


class Dense(NamedTuple):
    """All pairs. bias: [batch, 1, 1 or length, length] in the dtype of the queries, or None.

    torch would convert a boolean mask to a bias in each layer.
    """

    bias: Tensor | None

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, attend: Attend, dropout: float
    ) -> Tensor:
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        return attend(query, key, value, self.bias, dropout).transpose(1, 2)


class Flash(NamedTuple):
    """Variable-length flash attention. reach: tokens to either side; None: the whole document."""

    bounds: Tensor
    longest: int
    reach: int | None

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, attend: Attend, dropout: float
    ) -> Tensor:
        # The kernel of torch.nn.attention.varlen, which itself offers no dropout.
        output, *_ = torch.ops.aten._flash_attention_forward(
            *(part.flatten(0, 1) for part in (query, key, value)),
            *(self.bounds, self.bounds, self.longest, self.longest),
            *(dropout, False, False),  # not causal; no dropout mask in the result
            window_size_left=self.reach,
            window_size_right=self.reach,
        )
        return output.view(query.shape)


class ByDocument(NamedTuple):
    """Attention within one document at a time. lengths: as in Documents."""

    lengths: tuple[int, ...]

    @torch.compiler.disable  # it would be compiled again for each batch
    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, attend: Attend, dropout: float
    ) -> Tensor:
        parts = (part.flatten(0, 1).split(self.lengths) for part in (query, key, value))
        documents = zip(*parts, strict=True)
        outputs = [_attend_alone(q, k, v, attend, dropout) for q, k, v in documents]
        return torch.cat(outputs).view(query.shape)


class Windows(NamedTuple):
    """Blocks of queries, each with the keys of its own and the two adjacent blocks.

    bias: [batch * blocks, 1, size, 3 * size]. size: tokens of a block, at least the window's reach.
    """

    bias: Tensor
    size: int

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, attend: Attend, dropout: float
    ) -> Tensor:
        batch, length, heads, head_dim = query.shape
        rest = -length % self.size
        queries = functional.pad(query, (0, 0, 0, 0, 0, rest))
        queries = queries.view(-1, self.size, heads, head_dim).transpose(1, 2)
        beside = (0, 0, 0, 0, self.size, self.size + rest)
        keys, values = (
            functional.pad(part, beside)
            .unfold(1, 3 * self.size, self.size)  # [batch, blocks, heads, head_dim, 3 * size]
            .transpose(3, 4)  # before the copy: fast kernels need contiguous head_dim
            .flatten(0, 1)
            for part in (key, value)
        )
        output = attend(queries, keys, values, self.bias, dropout).transpose(1, 2)
        return output.reshape(batch, length + rest, heads, head_dim)[:, :length]


Pattern = Dense | Flash | ByDocument | Windows


def _attend_alone(
    query: Tensor, key: Tensor, value: Tensor, attend: Attend, dropout: float
) -> Tensor:
    """Computes attention within a document; arguments and result [length, heads, head_dim]."""
    query, key, value = (part.transpose(0, 1)[None] for part in (query, key, value))
    # torch's own attention, used on GPUs and for fp32 without dropout, keeps none.
    keeps_weights = query.device.type == "cpu" and (dropout or query.dtype != torch.float32)
    if not (keeps_weights and torch.is_grad_enabled() and query.shape[2] > 2 * QUERIES):
        return attend(query, key, value, None, dropout)[0].transpose(0, 1)
    outputs = [
        checkpoint(attend, part, key, value, None, dropout, use_reentrant=False)
        for part in query.split(QUERIES, dim=2)
    ]
    return torch.cat(outputs, dim=2)[0].transpose(0, 1)


# --- choice of the pattern -------------------------------------------------------------------


def global_pattern(mask: Tensor | Documents | None, hidden: Tensor, head_dim: int) -> Pattern:
    """Returns the pattern in which each token attends to its whole document.

    mask: bool [batch, length], True at real tokens, or int [batch, length], the number of each
    token's document, or None without padding; for long rows, the documents. hidden: [batch, length,
    hidden_size], for its device and dtype.
    """
    if isinstance(mask, Documents):
        if takes_flash(hidden, head_dim):
            return Flash(mask.bounds, mask.longest, None)
        return ByDocument(mask.lengths)
    if mask is None:
        return Dense(None)
    attends = mask[:, None] if mask.dtype == torch.bool else _same(mask, mask)
    return Dense(attention_bias(attends[:, None], compute_dtype(hidden)))


def local_pattern(
    mask: Tensor | Documents | None, hidden: Tensor, head_dim: int, reach: int
) -> Pattern:
    """Returns the pattern in which each token attends to at most `reach` neighbours on either side.

    Only to those of its document. Other arguments as for global_pattern.
    """
    if reach >= hidden.shape[1] - 1:
        return global_pattern(mask, hidden, head_dim)
    if isinstance(mask, Documents):
        if takes_flash(hidden, head_dim):
            return Flash(mask.bounds, mask.longest, reach)
        mask = mask.numbers
    length, dtype = hidden.shape[1], compute_dtype(hidden)
    if mask is None:
        mask = torch.ones(1, length, dtype=torch.bool, device=hidden.device)
    if length >= LONG_ROW:
        return _windows(mask.expand(len(hidden), -1), reach, dtype)
    place = torch.arange(length, device=mask.device)
    is_near = (place[:, None] - place).abs() <= reach
    return Dense(attention_bias((_same(mask, mask) & is_near)[:, None], dtype))


def _windows(numbers: Tensor, reach: int, dtype: torch.dtype) -> Windows:
    """Returns local_pattern for long rows. numbers: bool or int [batch, length]."""
    size = max(reach, MIN_BLOCK)
    rest = -numbers.shape[1] % size
    nowhere = functional.pad(numbers.int(), (size, size + rest), value=-1)
    of_keys = nowhere.unfold(1, 3 * size, size).flatten(0, 1)  # [batch * blocks, 3 * size]
    place = torch.arange(3 * size, device=numbers.device)
    is_near = (place[size : 2 * size, None] - place).abs() <= reach
    attends = _same(of_keys[:, size : 2 * size], of_keys) & is_near
    return Windows(attention_bias(attends[:, None], dtype), size)


def _same(of_queries: Tensor, of_keys: Tensor) -> Tensor:
    """Returns bool [batch, queries, keys]. Padding attends to padding: each query needs a key."""
    return of_queries[:, :, None] == of_keys[:, None]


def compute_dtype(hidden: Tensor) -> torch.dtype:
    """Returns the dtype of the layers' queries."""
    device = hidden.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return hidden.dtype


def takes_flash(hidden: Tensor, head_dim: int) -> bool:
    """True if torch has variable-length flash attention for these hidden states."""
    device = hidden.device
    return device.type == "cuda" and is_built_for_flash(
        compute_dtype(hidden), head_dim, _capability(device)
    )


def is_built_for_flash(dtype: torch.dtype, head_dim: int, capability: tuple[int, int]) -> bool:
    return (
        dtype in (torch.float16, torch.bfloat16)
        and head_dim % FLASH_HEAD_MULTIPLE == 0
        and head_dim <= FLASH_MAX_HEAD
        and capability >= AMPERE
    )


@torch.compiler.assume_constant_result
def _capability(device: torch.device) -> tuple[int, int]:
    """Returns the GPU's capability, (0, 0) if torch is built without flash attention."""
    if not torch.cuda.is_available():  # a fake CUDA tensor, in a test
        return AMPERE
    if not torch.backends.cuda.is_flash_attention_available():
        return (0, 0)
    return torch.cuda.get_device_capability(device)
