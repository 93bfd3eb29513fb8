"""How much work a search is, estimated from the data before anything runs.

The unit is a token that is trained on: the work of a transformer grows with their number, for
short samples at least.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.data.examples import find_file, load_examples
from finetune.data.tasks import Split, Task
from finetune.search.grid import HALVING, STILT_SOURCE, Job, num_runs

# Of English text, WordPiece with 30,000 entries.
BYTES_PER_TOKEN = 4.5
# A forward pass against forward and backward, which does twice its work again.
FORWARD_SHARE = 1 / 3
# Per sample of data that is not here yet; what GLUE's tasks have on average.
TYPICAL_TOKENS = 40
SAMPLES_LOOKED_AT = 2000


@dataclass(frozen=True)
class Effort:
    """Estimated tokens of a task's training, dev and test data, and of a training sample."""

    train: float
    dev: float
    test: float
    per_sample: float

    def of_run(self, epochs: float, evals_per_epoch: int = 0) -> float:
        """Tokens' worth of work in a run: training, evaluations and the predictions."""
        evaluations = max(1.0, epochs * evals_per_epoch)
        return epochs * self.train + FORWARD_SHARE * (evaluations * self.dev + self.test)


def estimate_effort(task: Task, data_dir: str, max_length: int) -> Effort:
    """data_dir: as for `load_examples`; empty, nothing is downloaded to find out."""
    if not data_dir:
        num_tests = sum(split.num_rows for split in task.test)
        typical = float(TYPICAL_TOKENS)
        return Effort(task.num_train_rows * typical, 0.0, num_tests * typical, typical)
    num_samples, per_sample = _training_samples(task, data_dir, max_length)
    train = num_samples * per_sample
    per_byte = train / max(1, _num_bytes([task.train], data_dir))
    return Effort(
        train,
        per_byte * _num_bytes(task.dev, data_dir),
        per_byte * _num_bytes(task.test, data_dir),
        per_sample,
    )


def _training_samples(task: Task, data_dir: str, max_length: int) -> tuple[int, float]:
    """Their number, and about how many tokens each has."""
    texts = load_examples(task, task.train, data_dir).texts
    lengths = [
        min(max_length, sum(len(text.encode()) for text in row) / BYTES_PER_TOKEN + len(row) + 1)
        for row in texts[:: max(1, len(texts) // SAMPLES_LOOKED_AT)]
    ]
    return len(texts), sum(lengths) / max(1, len(lengths))


def _num_bytes(splits: Iterable[Split], data_dir: str) -> int:
    found = (find_file(split, Path(data_dir)) for split in splits)
    return sum(path.stat().st_size for path in found if path)


# --- of a whole search -------------------------------------------------------------------------


@dataclass(frozen=True)
class SearchEffort:
    """efforts: by task. grid and kind: of the search. evals_per_epoch: of every run."""

    efforts: Mapping[str, Effort]
    grid: Sequence[Job]
    kind: str
    evals_per_epoch: int

    def of_job(self, job: Job) -> float:
        return self._of_run(job.task, job.epochs)

    @property
    def total(self) -> float:
        return sum(
            number * self._of_run(task, epochs)
            for task, jobs in by_task(self.grid).items()
            for epochs, number in num_runs(jobs, self.kind).items()
        )

    def longest_chain(self, done: Iterable[Job] = ()) -> float:
        """Of the runs left that must follow one another, however many there are at a time.

        These are a task's rungs in halving, and MNLI's runs before those that start from it.
        """
        tasks, num_done = by_task(self.grid), Counter((job.task, job.epochs) for job in done)
        chains = {}
        for task, jobs in tasks.items():
            planned = num_runs(jobs, self.kind).items()
            left = [epochs for epochs, number in planned if num_done[task, epochs] < number]
            works = [self._of_run(task, epochs) for epochs in left] or [0.0]
            chains[task] = sum(works) if self.kind == HALVING else max(works)
        return max(
            chain + (chains[STILT_SOURCE] if chain and tasks[task][0].stilt else 0.0)
            for task, chain in chains.items()
        )

    @property
    def typical_sample(self) -> int:
        """Tokens per sample of the task whose runs take the most work."""
        work = {
            task: self._of_run(task, 1) * len(jobs) for task, jobs in by_task(self.grid).items()
        }
        return round(self.efforts[max(work, key=work.get)].per_sample)

    def seconds_per_token(self, seconds: Mapping[Job, float]) -> float:
        """The speed of runs that are done. seconds: what each took."""
        return sum(seconds.values()) / max(1.0, sum(map(self.of_job, seconds)))

    def seconds_left(
        self, done: Iterable[Job], seconds_per_token: float, num_workers: int
    ) -> float:
        done = list(done)
        left = max(0.0, self.total - sum(map(self.of_job, done)))
        return seconds_per_token * max(left / num_workers, min(left, self.longest_chain(done)))

    def _of_run(self, task: str, epochs: int) -> float:
        return self.efforts[task].of_run(epochs, self.evals_per_epoch)


def by_task(jobs: Iterable[Job]) -> dict[str, list[Job]]:
    found = defaultdict(list)
    for job in jobs:
        found[job.task].append(job)
    return dict(found)
