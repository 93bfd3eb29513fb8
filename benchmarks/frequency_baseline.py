"""Validation loss of predicting every masked token by its frequency in the training samples.

    python -m benchmarks.frequency_baseline data/<ID>

The loss, in nats, that a model must get below to have learnt anything from context.
"""

import argparse
from pathlib import Path

if __name__ == "__main__":
    from pipeline.environment import enter_environment

    enter_environment()

import numpy as np

from dataset.samples.hdf5_files import read_samples


def token_counts(paths: list[Path], vocab_size: int) -> np.ndarray:
    """How often each token is to be predicted [vocab_size]; position 0 pads the predictions."""
    counts = np.zeros(vocab_size, dtype=np.int64)
    for path in paths:
        samples = read_samples(path)
        predicted = samples["masked_lm_ids"][samples["masked_lm_positions"] > 0]
        counts += np.bincount(predicted, minlength=vocab_size)
    return counts


def frequency_loss(dataset_dir: Path, vocab_size: int) -> float:
    """Cross entropy of the held-out predictions under the training frequencies (add-one)."""
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
