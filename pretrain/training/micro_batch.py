"""A micro batch: the tensors that the model takes, made of rows as they are stored."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pretrain.kernels.attention import LONG_ROW, Documents

PADDING_PIECE = 64  # tokens of the padding of long rows that attend to each other


@dataclass(frozen=True)
class MicroBatch:
    """The arguments of BasePretrainModel.forward; see there for shapes and dtypes."""

    input_ids: torch.Tensor
    segment_ids: torch.Tensor
    attention_mask: torch.Tensor | Documents | None
    prediction_index: torch.Tensor
    labels: torch.Tensor
    position_ids: torch.Tensor | None
    num_tokens: int  # without padding

    @property
    def num_predictions(self) -> int:
        return len(self.labels)

    @property
    def num_pairs(self) -> int:
        """Pairs of tokens whose attention is computed, in a layer without a window."""
        num_rows, length = self.input_ids.shape
        if isinstance(self.attention_mask, Documents):
            return sum(length**2 for length in self.attention_mask.lengths)
        return num_rows * length**2

    def inputs(self, device: torch.device) -> list[torch.Tensor | Documents | None]:
        """On a device; the copy of a pinned batch does not wait for the device."""
        return list(self._changed(lambda tensor: tensor.to(device, non_blocking=True)).values())

    def pinned(self) -> "MicroBatch":
        """The same in memory that a GPU copies from by itself."""
        return replace(self, **self._changed(torch.Tensor.pin_memory))

    def _changed(self, change: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
        """The arguments, in order, after a change of each tensor."""
        names = ("input_ids", "segment_ids", "attention_mask")
        names += ("prediction_index", "labels", "position_ids")
        return {name: _changed(getattr(self, name), change) for name in names}


def _changed(part: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(part, Documents):
        return part.changed(change)
    return None if part is None else change(part)


def collate(rows: dict[str, np.ndarray]) -> MicroBatch:
    """Tensors of the model from rows as they are stored; position 0 pads the predictions.

    Of a packed row, each sample has positions of its own and attends to itself alone.
    """
    input_ids = torch.from_numpy(rows["input_ids"].astype(np.int64))
    sample = rows["input_mask"]
    real, packed = sample.astype(bool), sample.max(initial=0) > 1
    row, column = np.nonzero(rows["masked_lm_positions"])
    positions = rows["masked_lm_positions"][row, column].astype(np.int64)
    return MicroBatch(
        input_ids=input_ids,
        segment_ids=torch.from_numpy(rows["segment_ids"].astype(np.int64)),
        attention_mask=_attention_mask(sample.astype(np.int32) if packed else real),
        prediction_index=torch.from_numpy(row * input_ids.shape[1] + positions),
        labels=torch.from_numpy(rows["masked_lm_ids"][row, column].astype(np.int64)),
        position_ids=torch.from_numpy(positions_within(sample)) if packed else None,
        num_tokens=int(real.sum()),
    )


def _attention_mask(sample: np.ndarray) -> torch.Tensor | Documents | None:
    """As BasePretrainModel.forward takes it; sample: int or bool, its number in the row [n, L]."""
    numbers = None if sample.all() and sample.dtype == bool else torch.from_numpy(sample)
    if sample.shape[1] < LONG_ROW:
        return numbers
    # Padding is cut into pieces, which cost little; it has to attend to something.
    positions = positions_within(sample)
    begins = (positions == 0) | ((sample == 0) & (positions % PADDING_PIECE == 0))
    return Documents.of(np.diff(np.flatnonzero(begins), append=begins.size).tolist(), numbers)


def positions_within(sample: np.ndarray) -> np.ndarray:
    """Position of each token in its sample, int64 [n, L]; sample: its number in the row [n, L]."""
    columns = np.arange(sample.shape[1])
    begins = np.ones(sample.shape, dtype=bool)
    begins[:, 1:] = sample[:, 1:] != sample[:, :-1]
    return columns - np.maximum.accumulate(np.where(begins, columns, 0), axis=1)
