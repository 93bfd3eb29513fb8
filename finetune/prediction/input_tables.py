"""The table to predict: its texts, all of its columns, and a check of all rows beforehand."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset.sources.parquet_files import explained, open_parquet_file
from finetune.data.files.cells import column_positions
from finetune.data.files.parquet_tables import (
    batch_rows,
    file_state,
    is_parquet,
    parquet_columns,
    parquet_files,
    problem_with_table,
)
from finetune.data.tables import MAX_KEYS, iter_objects, iter_table, place, table_columns
from finetune.prediction.jobs import Texts
from pipeline.errors import ConfigError, StageError
from pipeline.user_files.file_checks import shown_list

if TYPE_CHECKING:
    import pyarrow

ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class InputTable:
    """A file, or a folder of Parquet files. header: the columns of a file without a header line."""

    path: Path
    header: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ConfigError for a file that cannot be read, or of another format."""
        if problem := problem_with_table(str(self.path)):
            raise ConfigError([f"FILE: {self.path}: {problem}"])
        ending = self.path.suffix.lower()
        if not self.is_parquet and ending not in ENDINGS:
            expected = ", ".join(ENDINGS)
            raise ConfigError([f"FILE: {self.path}: its ending is none of {expected}"])
        if self.header and (self.is_parquet or self.has_objects):
            raise ConfigError([f"--columns: {self.path} names its columns itself"])

    @property
    def is_parquet(self) -> bool:
        return is_parquet(self.path)

    @property
    def has_objects(self) -> bool:
        return self.path.suffix.lower() == ".jsonl" and not self.is_parquet

    @property
    def state(self) -> list[int]:
        """Size and time of the file, to notice changes."""
        return list(file_state(self.path))

    def texts(self, columns: Sequence[str], start: int) -> Iterator[Texts]:
        """Yields the texts of each row from row `start` on. Raises StageError for a malformed
        row."""
        for row in iter_table(self.path, columns, header=self.header, start=start):
            if row.problem:
                raise StageError(f"{place(self.path, row.number)}: {row.problem}")
            yield row.cells

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yields all columns of each row: texts of .csv and .tsv, else the file's values."""
        if self.is_parquet:
            for batch in self.batches():
                yield from batch.to_pylist()
        elif self.has_objects:
            yield from (row for _, row in iter_objects(self.path) if isinstance(row, dict))
        else:
            names = self._columns()
            for row in iter_table(self.path, names, header=self.header):
                yield dict(zip(names, row.cells, strict=True))

    def batches(self) -> Iterator["pyarrow.RecordBatch"]:
        """Yields the rows of Parquet."""
        for shard in parquet_files(self.path):
            with open_parquet_file(str(shard)) as file, explained(str(shard), "damaged"):
                for group in range(file.metadata.num_row_groups):
                    size = batch_rows(file.metadata.row_group(group))
                    yield from file.iter_batches(size, [group], use_threads=False)

    def check(self, text_columns: Sequence[str]) -> tuple[int, list[str]]:
        """Reads all rows; returns their number, and the columns.

        Raises StageError for a missing column, and if any row is malformed: no row can be left out.
        """
        columns = self._keys() if self.has_objects else self._columns()
        try:
            column_positions(self.path, columns, text_columns)
        except StageError as error:
            raise StageError(f"{error.cause}; --text_columns names others") from None
        read = columns if not (self.has_objects or self.is_parquet) else text_columns
        first, num_malformed, number = "", 0, 0
        for row in iter_table(self.path, read, header=self.header):
            number += 1
            if row.problem:
                num_malformed += 1
                first = first or f"{place(self.path, row.number)}: {row.problem}"
        if num_malformed:
            more = f", and {num_malformed - 1:,} more rows are malformed" * (num_malformed > 1)
            raise StageError(f"{first}{more}; no row can be left out")
        return number, columns

    def _columns(self) -> list[str]:
        if self.is_parquet:
            return parquet_columns(self.path)
        return list(self.header) or table_columns(self.path)

    def _keys(self) -> list[str]:
        """Returns the keys of all objects, in the order of their first use."""
        keys: dict[str, None] = {}
        for row in self.rows():
            keys |= dict.fromkeys(row)
            if len(keys) > MAX_KEYS:
                raise StageError(
                    f"{self.path}: more than {MAX_KEYS:,} different keys, like "
                    f"{shown_list(list(keys)[:3])}; expected objects with the same keys"
                )
        return list(keys)
