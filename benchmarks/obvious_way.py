"""The work of the dataset stage, written in the most obvious way with public libraries.

Sentences by sentencex, `tokenizers`' encode_batch once per mask copy, a Python loop that masks
sample by sample, and plain int32 arrays written with h5py.
"""

import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

SENTENCES_PER_BATCH = 1000
LENGTH = 128  # of a sample, in tokens
PREDICTIONS = 20  # at most, in a sample


def prepare_obviously(
    articles: Sequence[str], vocabulary: Path, folder: Path, copies: int
) -> tuple[float, float]:
    """Writes all copies to a folder; returns the CPU seconds of segmentation and per copy."""
    from tokenizers import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer(str(vocabulary))
    begin = time.process_time()
    documents = [split(article) for article in articles]
    segmented = time.process_time()
    for copy in range(copies):
        rng = random.Random(copy)
        samples = [mask(row, tokenizer, rng) for row in rows(documents, tokenizer)]
        write(samples, folder / f"obvious_{copy:02d}.hdf5")
    return segmented - begin, (time.process_time() - segmented) / copies


def split(article: str) -> list[str]:
    import sentencex

    sentences = sentencex.segment("en", " ".join(article.split()))
    return [sentence.strip() for sentence in sentences if sentence.strip()]


def rows(documents: list[list[str]], tokenizer) -> Iterator[list[int]]:
    """Yields [CLS] tokens [SEP] of each sample."""
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    for sentences in documents:
        waiting: list[int] = []
        for begin in range(0, len(sentences), SENTENCES_PER_BATCH):
            batch = sentences[begin : begin + SENTENCES_PER_BATCH]
            for encoding in tokenizer.encode_batch(batch, add_special_tokens=False):
                waiting += encoding.ids
        for begin in range(0, len(waiting), LENGTH - 2):
            yield [cls, *waiting[begin : begin + LENGTH - 2], sep]


def mask(row: list[int], tokenizer, rng: random.Random) -> tuple[list[int], ...]:
    """Returns input_ids, input_mask, positions and ids of the predictions, padded."""
    inside = list(range(1, len(row) - 1))
    number = min(PREDICTIONS, max(1, round(len(inside) * 0.15)))
    positions = sorted(rng.sample(inside, min(number, len(inside))))
    ids = [row[position] for position in positions]
    masked = list(row)
    for position in positions:
        draw = rng.random()
        if draw < 0.8:
            masked[position] = tokenizer.token_to_id("[MASK]")
        elif draw < 0.9:
            masked[position] = rng.randrange(tokenizer.get_vocab_size())
    padding = [0] * (LENGTH - len(row))
    short = [0] * (PREDICTIONS - len(positions))
    return masked + padding, [1] * len(row) + padding, positions + short, ids + short


def write(samples: list[tuple[list[int], ...]], path: Path) -> None:
    import h5py
    import numpy as np

    names = ("input_ids", "input_mask", "masked_lm_positions", "masked_lm_ids")
    with h5py.File(path, "w") as file:
        for name, column in zip(names, zip(*samples, strict=True), strict=True):
            file.create_dataset(name, data=np.array(column, dtype=np.int32))
        segments = np.zeros((len(samples), LENGTH), dtype=np.int32)
        file.create_dataset("segment_ids", data=segments)
