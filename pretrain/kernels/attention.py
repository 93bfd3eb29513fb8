"""Which tokens attend to which, and the attention that computes just that.

Each forward pass makes one or two patterns, for all layers. `Dense` adds a bias to the scores of
all pairs of tokens. The others are for rows of LONG_ROW tokens and more, and take memory linear in
their length: `Flash` and `ByDocument` leave out the pairs of different documents, `Flash` and
`Windows` those that are too far apart.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pretrain.kernels.dropout import attention_bias

LONG_ROW = 512
# Queries that a long document is cut into where attention keeps all its weights: the backward pass
# computes those of a piece again.
QUERIES = 512
MIN_BLOCK = 64  # queries of a window's block: smaller products are no faster
# Head sizes of torch's flash attention; cards of capability 8.6, 8.9 and 12 train up to 192 alone.
FLASH_HEAD_MULTIPLE, FLASH_MAX_HEAD = 8, 192
AMPERE = (8, 0)

# (query, key, value, bias, dropout) -> output, all but the bias [batch, heads, length, head_dim];
# bias: None, or added to the scores, broadcastable to [batch, heads, queries, keys].
Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]


class Documents(NamedTuple):
    """Documents that follow each other in a batch of rows; none goes on in the next row.

    lengths: tokens of each, padding included. longest: at least the length of the longest. bounds:
    int32 [documents + 1], where each begins in the rows laid end to end, and where the last ends.
    numbers: [batch, length], a document's number in its row at each of its tokens and 0 (False) at
    padding, or None if each row is one document.
    """

    lengths: tuple[int, ...]
    longest: int
    bounds: Tensor
    numbers: Tensor | None

    @classmethod
    def of(cls, lengths: Sequence[int], numbers: Tensor | None) -> "Documents":
        bounds = torch.tensor([0, *lengths]).cumsum(0).int()
        # A power of two, so that compiled code meets few different ones.
        longest = 1 << (max(lengths) - 1).bit_length()
        return cls(tuple(lengths), longest, bounds, numbers)

    def changed(self, change: Callable[[Tensor], Tensor]) -> "Documents":
        """After a change of each tensor, e.g. a copy to another device."""
        numbers = None if self.numbers is None else change(self.numbers)
        return self._replace(bounds=change(self.bounds), numbers=numbers)


# --- the patterns ----------------------------------------------------------------------------
#
# Each has attend(query, key, value, attend, dropout): vectors [batch, length, heads, head_dim], and
# so is the result; attend does the work where the pattern has no kernel of its own.


class Dense(NamedTuple):
    """bias: [batch, 1, 1 or length, length] in the dtype of the queries; None: all attend to all.

    torch takes boolean masks too, and makes a bias of them in each layer.
    """

    bias: Tensor | None

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, attend: Attend, dropout: float
    ) -> Tensor:
        heads = (part.transpose(1, 2) for part in (query, key, value))
        return attend(*heads, self.bias, dropout).transpose(1, 2)


class Flash(NamedTuple):
    """Variable-length flash attention. reach: tokens to either side; None: the whole document."""

    bounds: Tensor
    longest: int
    reach: int | None

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, attend: Attend, dropout: float
    ) -> Tensor:
        # What torch.nn.attention.varlen calls, whose own function has no dropout.
        output, *_ = torch.ops.aten._flash_attention_forward(
            *(part.flatten(0, 1) for part in (query, key, value)),
            *(self.bounds, self.bounds, self.longest, self.longest),
            *(dropout, False, False),  # neither causal, nor with the dropout's mask
            window_size_left=self.reach,
            window_size_right=self.reach,
        )
        return output.view(query.shape)


class ByDocument(NamedTuple):
    """One document after the other. lengths: as in Documents."""

    lengths: tuple[int, ...]

    @torch.compiler.disable  # compiled code would be another one for each batch
    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, attend: Attend, dropout: float
    ) -> Tensor:
        parts = (part.flatten(0, 1).split(self.lengths) for part in (query, key, value))
        documents = zip(*parts, strict=True)
        outputs = [_attend_alone(*document, attend, dropout) for document in documents]
        return torch.cat(outputs).view(query.shape)


class Windows(NamedTuple):
    """Blocks of queries, each with its own keys and those of the blocks beside it.

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
            .transpose(3, 4)  # before the copy: fast kernels want a head's numbers side by side
            .flatten(0, 1)
            for part in (key, value)
        )
        output = attend(queries, keys, values, self.bias, dropout).transpose(1, 2)
        return output.reshape(batch, length + rest, heads, head_dim)[:, :length]


Pattern = Dense | Flash | ByDocument | Windows


def _attend_alone(
    query: Tensor, key: Tensor, value: Tensor, attend: Attend, dropout: float
) -> Tensor:
    """A document's tokens to each other: [length, heads, head_dim]."""
    query, key, value = (part.transpose(0, 1)[None] for part in (query, key, value))
    # As torch's own attention does not, which does all on a GPU, and what is plain on the CPU.
    keeps_weights = query.device.type == "cpu" and (dropout or query.dtype != torch.float32)
    if not (keeps_weights and torch.is_grad_enabled() and query.shape[2] > 2 * QUERIES):
        return attend(query, key, value, None, dropout)[0].transpose(0, 1)
    outputs = [
        checkpoint(attend, part, key, value, None, dropout, use_reentrant=False)
        for part in query.split(QUERIES, dim=2)
    ]
    return torch.cat(outputs, dim=2)[0].transpose(0, 1)


# --- which one -------------------------------------------------------------------------------


def global_pattern(mask: Tensor | Documents | None, hidden: Tensor, head_dim: int) -> Pattern:
    """Each token attends to all of its document.

    mask: bool [batch, length], True at real tokens, or int [batch, length], the number of each
    token's document, or None if nothing is padded; of long rows, the documents. hidden: [batch,
    length, hidden_size], for its device and dtype.
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
    """Each token attends to those of its document that are at most `reach` tokens away.

    Arguments as for global_pattern.
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
    """numbers: bool or int [batch, length]."""
    size = max(reach, MIN_BLOCK)
    rest = -numbers.shape[1] % size
    nowhere = functional.pad(numbers.int(), (size, size + rest), value=-1)
    of_keys = nowhere.unfold(1, 3 * size, size).flatten(0, 1)  # [batch * blocks, 3 * size]
    place = torch.arange(3 * size, device=numbers.device)
    is_near = (place[size : 2 * size, None] - place).abs() <= reach
    attends = _same(of_keys[:, size : 2 * size], of_keys) & is_near
    return Windows(attention_bias(attends[:, None], dtype), size)


def _same(of_queries: Tensor, of_keys: Tensor) -> Tensor:
    """bool [batch, queries, keys]. Padding attends to padding: no query is left without a key."""
    return of_queries[:, :, None] == of_keys[:, None]


def compute_dtype(hidden: Tensor) -> torch.dtype:
    """What the layers compute queries in."""
    device = hidden.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return hidden.dtype


def takes_flash(hidden: Tensor, head_dim: int) -> bool:
    """Whether torch has variable-length flash attention for these hidden states."""
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
    """The card's; (0, 0) if this torch is built without flash attention."""
    if not torch.cuda.is_available():  # a tensor without memory, to see what would be computed
        return AMPERE
    if not torch.backends.cuda.is_flash_attention_available():
        return (0, 0)
    return torch.cuda.get_device_capability(device)
