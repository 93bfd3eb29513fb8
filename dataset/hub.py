"""Articles out of Hub datasets, and out of local folders of parquet, JSON or CSV files.

`datasets` downloads and converts them to Arrow files, which workers then map into memory: a row
is an article, its text in the column `text`.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import StageError

TEXT_COLUMN = "text"


@dataclass(frozen=True)
class ArrowSlice:
    """Rows [start, end) of an Arrow stream file; num_bytes: size of their text."""

    name: str
    path: Path
    start: int
    end: int
    num_bytes: int

    def articles(self, tally: Counter) -> Iterator[tuple[int, str]]:
        """Yields (position, text); position is the row's number in its file."""
        for first_row, column in iter_text_batches(self.path):
            begin = max(self.start - first_row, 0)
            end = min(self.end - first_row, len(column))
            for row in range(begin, end):
                text = column[row].as_py() or ""
                tally["nul_characters"] += text.count("\0")
                yield first_row + row, text.replace("\0", " ")
            if first_row + len(column) >= self.end:
                break


def iter_text_batches(path: Path):
    """Yields (number of the first row, text column) of each batch, without copying it."""
    import pyarrow

    with pyarrow.memory_map(str(path)) as source, pyarrow.ipc.open_stream(source) as batches:
        first_row = 0
        for batch in batches:
            yield first_row, batch.column(TEXT_COLUMN)
            first_row += len(batch)


def present_name(name: str, subset: str) -> tuple[str, str]:
    """The present home of the classic datasets, whose loading scripts `datasets` refuses."""
    if name == "wikipedia":
        language = subset.rpartition(".")[2] or "en"
        return "wikimedia/wikipedia", f"20231101.{language}"
    if name in ("bookcorpusopen", "bookcorpus"):
        return "lucadiliello/bookcorpusopen", ""
    return name, subset


def load_arrow_files(name: str, subset: str, cache: Path, say: Callable[[str], None]) -> list[Path]:
    """Downloads or converts a dataset's training split; a local folder is converted in `cache`.

    Raises StageError if it cannot be loaded, or has no split `train` or no column `text`.
    """
    import datasets

    home, home_subset = (name, subset) if Path(name).exists() else present_name(name, subset)
    if (home, home_subset) != (name, subset):
        say(f"[{name}, {subset}] is read from its present home [{home}, {home_subset}]")
    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(
            home,
            None if home_subset in ("", "default") else home_subset,
            split="train",
            cache_dir=str(cache) if Path(home).exists() else None,
        )
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise StageError(
            f"dataset [{home}, {home_subset}] could not be loaded: {reason}"
        ) from error
    if TEXT_COLUMN not in loaded.column_names:
        raise StageError(
            f"dataset [{home}, {home_subset}] has no column `{TEXT_COLUMN}`, "
            f"it has {', '.join(loaded.column_names)}"
        )
    return [Path(file["filename"]) for file in loaded.cache_files]


def cut_arrow_file(path: Path, name: str, slice_bytes: int) -> list[ArrowSlice]:
    """An Arrow file as slices of at most about `slice_bytes` of text."""
    slices = []
    for first_row, column in iter_text_batches(path):
        pieces = -(-column.nbytes // slice_bytes) or 1
        rows = -(-len(column) // pieces) or 1
        for start in range(0, len(column), rows):
            piece = column[start : start + rows]
            begin = first_row + start
            slices.append(ArrowSlice(name, path, begin, begin + len(piece), piece.nbytes))
    return slices
