"""A micro batch: the model's input tensors, made from stored rows."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pretrain.kernels.attention import LONG_ROW, Documents

PADDING_PIECE = 64  # tokens; attention within the padding of long rows


@dataclass(frozen=True)
class MicroBatch:
    """Arguments of BasePretrainModel.forward; see there for shapes and dtypes."""

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
        """Pairs of tokens attending to each other in a layer without a window."""
        num_rows, length = self.input_ids.shape
        if isinstance(self.attention_mask, Documents):
            return sum(length**2 for length in self.attention_mask.lengths)
        return num_rows * length**2

    def inputs(self, device: torch.device) -> list[torch.Tensor | Documents | None]:
        """Returns the inputs on a device; copying a pinned batch does not wait for it."""
        return list(self._changed(lambda tensor: tensor.to(device, non_blocking=True)).values())

    def pinned(self) -> "MicroBatch":
        """Returns a copy in pinned memory."""
        return replace(self, **self._changed(torch.Tensor.pin_memory))

    def _changed(self, change: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
        """Returns the arguments in order, with each tensor changed."""
        changed: dict[str, Any] = {}
        for name, part in vars(self).items():
            if isinstance(part, Documents):
                changed[name] = part.changed(change)
            elif name != "num_tokens":
                changed[name] = None if part is None else change(part)
        return changed


def collate(rows: dict[str, np.ndarray]) -> MicroBatch:
    """Builds a micro batch from stored rows; position 0 pads their predictions.

    Each sample of a packed row has its own positions and attends only to itself.
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
    """Returns the argument of BasePretrainModel.forward.

    sample: int [n, L], each token's sample in its row, 0 in padding; or bool [n, L].
    """
    numbers = None if sample.all() and sample.dtype == bool else torch.from_numpy(sample)
    if sample.shape[1] < LONG_ROW:
        return numbers
    # Padding must attend to something; short pieces are cheap.
    positions = positions_within(sample)
    begins = (positions == 0) | ((sample == 0) & (positions % PADDING_PIECE == 0))
    return Documents.of(np.diff(np.flatnonzero(begins), append=begins.size).tolist(), numbers)


def positions_within(sample: np.ndarray) -> np.ndarray:
    """Returns each token's position in its sample, int64 [n, L]. sample: as above, [n, L]."""
    columns = np.arange(sample.shape[1])
    begins = np.ones(sample.shape, dtype=bool)
    begins[:, 1:] = sample[:, 1:] != sample[:, :-1]
    return columns - np.maximum.accumulate(np.where(begins, columns, 0), axis=1)
