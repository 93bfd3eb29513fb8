"""Packed and long rows as the model takes them."""

import numpy as np
import pytest
import torch

from pretrain.kernels.attention import LONG_ROW
from pretrain.training.micro_batch import collate, positions_within


def _stored(sample):
    """As they are stored, without predictions."""
    none = np.zeros((len(sample), 3), np.uint16)
    arrays = {"input_ids": sample, "input_mask": sample, "segment_ids": 0 * sample}
    return arrays | {"masked_lm_positions": none, "masked_lm_ids": none}


def test_packed_rows_keep_their_samples_apart():
    sample = np.array([[1, 1, 1, 2, 2, 3, 3, 0], [1, 1, 1, 1, 1, 1, 1, 1]], dtype=np.uint8)
    assert positions_within(sample).tolist() == [[0, 1, 2, 0, 1, 0, 1, 0], list(range(8))]
    batch = collate(_stored(sample))
    numbers = batch.inputs(torch.device("cpu"))[2]
    assert numbers.dtype == torch.int32 and numbers.tolist() == sample.tolist()
    assert batch.num_tokens == 15 and batch.num_pairs == 2 * 8 * 8


def _ramp(*lengths):
    return np.repeat(np.arange(1, len(lengths) + 1), lengths)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_long_rows_are_given_by_their_documents(dtype):
    """Their padding is cut into pieces. No length x length mask is made of them."""
    sample = np.zeros((3, LONG_ROW), dtype)
    sample[0], sample[1, :400] = _ramp(100, 12, 400), _ramp(300, 100)
    sample[2] = 1
    batch = collate(_stored(sample))
    documents = batch.inputs(torch.device("cpu"))[2]
    lengths = [100, 12, 400, 300, 100, 64, 48, 512]
    assert documents.lengths == tuple(lengths) and documents.longest == 512
    assert documents.bounds.tolist() == [0, *np.cumsum(lengths)]
    assert documents.bounds.dtype == torch.int32
    assert documents.numbers.tolist() == sample.tolist()
    assert batch.position_ids.tolist() == positions_within(sample).tolist()
    assert batch.num_pairs == sum(length**2 for length in lengths)


def test_long_rows_of_one_document_each():
    full, padded = np.ones((2, LONG_ROW), np.uint8), np.ones((2, LONG_ROW), np.uint8)
    padded[1, 10:] = 0
    batch = collate(_stored(full))
    assert batch.attention_mask.lengths == (LONG_ROW, LONG_ROW)
    assert batch.attention_mask.numbers is None and batch.position_ids is None
    batch = collate(_stored(padded))
    assert batch.attention_mask.lengths == (LONG_ROW, 10, *[64] * 7, 54)
    assert torch.equal(batch.attention_mask.numbers, torch.from_numpy(padded).bool())
    assert batch.position_ids is None


def test_all_of_a_batch_goes_to_the_device():
    batch = collate(_stored(np.stack([_ramp(500, 12), _ramp(12, 500)]).astype(np.uint8)))
    *tensors, labels, positions = batch.inputs(torch.device("meta"))
    documents = tensors.pop(2)
    found = (*tensors, labels, positions, documents.bounds, documents.numbers)
    assert {tensor.device.type for tensor in found} == {"meta"}
    assert documents.lengths == (500, 12, 12, 500)  # known to the host without asking
