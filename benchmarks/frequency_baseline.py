"""Validation loss of predicting masked tokens by their frequency in the training samples.

    python -m benchmarks.frequency_baseline data/<ID>

A model with a lower loss, in nats, has learnt something from context.
"""

import argparse
from pathlib import Path

if __name__ == "__main__":
    from pipeline.environment import enter_environment

    enter_environment()

import numpy as np


def token_counts(paths: list[Path], vocab_size: int) -> np.ndarray:
    """Counts the predictions of each token, [vocab_size]; position 0 is padding."""
    from dataset.samples.hdf5_files import read_samples

    counts = np.zeros(vocab_size, dtype=np.int64)
    for path in paths:
        samples = read_samples(path)
        predicted = samples["masked_lm_ids"][samples["masked_lm_positions"] > 0]
        counts += np.bincount(predicted, minlength=vocab_size)
    return counts


def frequency_loss(dataset_dir: Path, vocab_size: int) -> float:
    """Returns the cross entropy of held-out predictions under training frequencies (add-one)."""
    train = token_counts(sorted(dataset_dir.glob("train_*_00.hdf5")), vocab_size) + 1
    test = token_counts(sorted(dataset_dir.glob("test_*.hdf5")), vocab_size)
    return float(-(test @ np.log(train / train.sum())) / test.sum())


def main() -> None:
    from pipeline.store.record_files import MANIFEST, read_json

    parser = argparse.ArgumentParser(prog="python -m benchmarks.frequency_baseline")
    parser.description = __doc__.splitlines()[0]
    parser.add_argument("dataset", type=Path, help="folder of a finished dataset, data/<ID>")
    directory = parser.parse_args().dataset
    try:
        size = (read_json(directory / MANIFEST) or {})["results"]["vocab_size"]
    except KeyError:
        parser.error(f"{directory} is no folder of a finished dataset, expected data/<ID>")
    print(f"{directory}: {frequency_loss(directory, size):.4f} nats per masked token")


if __name__ == "__main__":
    main()
