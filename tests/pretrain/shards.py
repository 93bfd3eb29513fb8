"""Small synthetic datasets in the format that the dataset stage writes."""

import json
from pathlib import Path

import h5py
import numpy as np

from dataset.samples.hdf5_files import write_masking
from dataset.samples.masking import Masking

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LENGTH, PREDICTIONS = 16, 3


def write_dataset(
    folder: Path,
    train_sizes=(7, 5),
    copies=2,
    num_test=9,
    vocab_size=61,
    length=LENGTH,
    padding=True,
) -> Path:
    """train_*_*.hdf5, test_00000.hdf5 and tokenizer/ with random but learnable samples."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for shard, size in enumerate(train_sizes):
        for copy in range(copies):
            path = folder / f"train_{shard:05d}_{copy:02d}.hdf5"
            _write_shard(path, _samples(generator, size, vocab_size, length, padding))
    _write_shard(
        folder / "test_00000.hdf5", _samples(generator, num_test, vocab_size, length, padding)
    )
    _write_tokenizer(folder / "tokenizer", vocab_size)
    return folder


def write_unmasked(folder: Path) -> Path:
    """The same for dynamic masking: rows of 16 tokens, and 0.4 of them to be masked."""
    write_dataset(folder, copies=1, padding=False)
    for path in folder.glob("train_*.hdf5"):
        with h5py.File(path, "a") as file:
            rows = np.arange(len(file["input_ids"]))[:, None]
            ids, positions = file["input_ids"][:], file["masked_lm_positions"][:]
            ids[rows, positions] = np.where(positions, file["masked_lm_ids"][:], ids[:, :1])
            file["input_ids"][:] = ids
            del file["masked_lm_positions"], file["masked_lm_ids"]
    write_masking(folder, Masking(4, 61, [0, 1, 2, 3, 4], [], 0.4, 6, 0.8, 0.1))
    return folder


def _samples(generator, size, vocab_size, length, padding):
    ids = np.zeros((size, length), np.uint16)
    mask = np.zeros((size, length), np.uint8)
    segments = np.zeros((size, length), np.uint8)
    positions = np.zeros((size, PREDICTIONS), np.uint16)
    labels = np.zeros((size, PREDICTIONS), np.uint16)
    for row in range(size):
        real = int(generator.integers(6, length + 1)) if padding else length
        start = int(generator.integers(5, vocab_size))
        words = 5 + (start - 5 + np.arange(real - 2)) % (vocab_size - 5)
        ids[row, :real] = [2, *words, 3]
        mask[row, :real] = 1
        segments[row, real // 2 : real] = 1
        count = int(generator.integers(1, PREDICTIONS + 1))
        chosen = np.sort(generator.choice(np.arange(1, real - 1), count, replace=False))
        positions[row, :count], labels[row, :count] = chosen, ids[row, chosen]
        ids[row, chosen] = 4
    return {
        "input_ids": ids,
        "input_mask": mask,
        "segment_ids": segments,
        "masked_lm_positions": positions,
        "masked_lm_ids": labels,
    }


def _write_shard(path: Path, arrays) -> None:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
        file.attrs["num_samples"] = len(arrays["input_ids"])


def _write_tokenizer(folder: Path, vocab_size: int) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir(exist_ok=True)
    words = SPECIAL + [f"w{i}" for i in range(vocab_size - len(SPECIAL))]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": False})
    )
