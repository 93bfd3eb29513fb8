"""Reads tables in Parquet: a file, or a folder of them as one table, in the order of their names.

Rows count from 0, through all files of a folder. The Hub's datasets have numbers of classes in a
column, and their names in the `huggingface` metadata of the schema; the names are the values here.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset.sources.parquet_files import explained, open_parquet_file
from finetune.data.files.cells import column_positions, problem_of_text
from pipeline.errors import StageError
from pipeline.user_files.file_checks import problem_with_file, shown_list

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

ENDING = ".parquet"
BATCH_BYTES = 4 << 20  # of values decoded at once
MAX_BATCH_ROWS = 4096
NUMBERED = re.compile(r"(?P<name>.+)-[0-9]{5}-of-(?P<total>[0-9]{5})")  # the Hub's names of files
METADATA = b"huggingface"
NO_CLASS = -1  # in the Hub's test sets


def is_parquet(path: Path) -> bool:
    """True for a folder, too, whatever is in it."""
    return path.suffix.lower() == ENDING or path.is_dir()


def parquet_files(path: Path) -> list[Path]:
    """Returns the file, or the files of a folder, sorted.

    Raises StageError for a folder without any, with files of several splits, or without some of the
    files of `train-00000-of-00003.parquet` and the like.
    """
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix.lower() == ENDING)
    if not files:
        raise StageError(f"{path}: has no {ENDING} file, expected some in the folder")
    numbered = [found for file in files if (found := NUMBERED.fullmatch(file.stem))]
    kinds = {found["name"]: int(found["total"]) for found in numbered}
    if len(kinds) > 1:
        raise StageError(f"{path}: has files of {shown_list(kinds)}, expected a folder for each")
    if kinds and len(files) != (total := next(iter(kinds.values()))):
        raise StageError(f"{path}: has {len(files):,} {ENDING} files, expected {total:,}")
    return files


def num_files_of_split(path: Path) -> int:
    """Returns 3 for `train-00000-of-00003.parquet`, 1 for other names."""
    found = NUMBERED.fullmatch(path.stem)
    return int(found["total"]) if found and path.suffix.lower() == ENDING else 1


def problem_with_table(path: str) -> str:
    """Returns the reason why this is neither a file nor a folder of Parquet files, or ""."""
    if not Path(path).is_dir():
        return problem_with_file(path)
    try:
        problems = [(file, problem_with_file(file)) for file in parquet_files(Path(path))]
    except StageError as error:
        return error.cause.removeprefix(f"{path}: ")
    return next((f"{file.name} {problem}" for file, problem in problems if problem), "")


def parquet_columns(path: Path) -> list[str]:
    """Returns the names of the columns. Raises StageError for a damaged file."""
    with open_parquet_file(str(parquet_files(path)[0])) as file:
        return list(_schema(path, file).names)


def num_parquet_rows(path: Path) -> int:
    """Returns the number of rows, by the footers. Raises StageError for a damaged file."""
    total = 0
    for shard in parquet_files(path):
        with open_parquet_file(str(shard)) as file:
            total += file.metadata.num_rows
    return total


def class_names(path: Path) -> dict[str, tuple[str, ...]]:
    """Returns the names of classes, by number, of each column with numbers of classes.

    Raises StageError if the files of a folder disagree about them.
    """
    found: dict[str, tuple[str, ...]] = {}
    for number, shard in enumerate(parquet_files(path)):
        with open_parquet_file(str(shard)) as file:
            names = _class_names(shard, _schema(shard, file))
        if number and names != found:
            raise StageError(f"{shard}: other names of classes than in the files before it")
        found = names
    return found


def parquet_values(
    path: Path, names: Sequence[str], lists: Sequence[str], start: int
) -> Iterator[tuple[int, Sequence[Any] | str]]:
    """Yields the number and the values of each row, or its problem. start: rows to skip.

    names: columns of texts, numbers, or true and false; those in `lists` may hold lists of them.
    Raises StageError for a damaged file, and for a column that is missing or of another kind.
    """
    classes = class_names(path)
    of_columns = [classes.get(name, ()) for name in names]
    number = 0
    for shard in parquet_files(path):
        with open_parquet_file(str(shard)) as file:
            schema = _schema(shard, file)
            column_positions(shard, schema.names, names)
            for name in names:
                _check_kind(shard, name, schema.field(name).type, name in lists)
            for group in range(file.metadata.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                if number + size > start:
                    rows = _rows_of_group(shard, file, group, names)
                    for place, row in enumerate(rows, number):
                        if place >= start:
                            yield place, _checked(row, of_columns)
                number += size


def batch_rows(group: "pyarrow.parquet.RowGroupMetaData") -> int:
    """Returns the number of a row group's rows to decode at once."""
    fitting = group.num_rows * BATCH_BYTES // max(group.total_byte_size, 1)
    return max(1, min(MAX_BATCH_ROWS, fitting))


def _rows_of_group(
    path: Path, file: "pyarrow.parquet.ParquetFile", group: int, names: Sequence[str]
) -> Iterator[tuple]:
    described = file.metadata.row_group(group)
    size, num_read = batch_rows(described), 0
    for batch in _batches(path, file, size, group, names):
        places = [batch.schema.get_field_index(name) for name in names]
        yield from zip(*(_python_values(batch.column(place)) for place in places), strict=True)
        num_read += batch.num_rows
    if num_read != described.num_rows:
        raise StageError(f"{path}: damaged, rows are missing")


def _batches(
    path: Path, file: "pyarrow.parquet.ParquetFile", size: int, group: int, names: Sequence[str]
) -> Iterator["pyarrow.RecordBatch"]:
    with explained(str(path), "damaged"):
        yield from file.iter_batches(size, [group], columns=list(names), use_threads=False)


def _schema(path: Path, file: "pyarrow.parquet.ParquetFile") -> "pyarrow.Schema":
    with explained(str(path), "damaged"):
        return file.schema_arrow


# --- values -----------------------------------------------------------------------------------


def _check_kind(path: Path, name: str, kind: "pyarrow.DataType", may_be_list: bool) -> None:
    from pyarrow import types

    given = kind
    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    if may_be_list and any(is_list(kind) for is_list in lists):
        kind = kind.value_type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    texts = (types.is_string, types.is_large_string, types.is_string_view)
    others = (types.is_boolean, types.is_integer, types.is_floating, types.is_null)
    if not any(is_kind(kind) for is_kind in (*texts, *others)):
        wanted = "text, numbers or true and false" + (", or lists of these" if may_be_list else "")
        raise StageError(f"{path}: column {name} holds {given}, expected {wanted}")


def _python_values(column: "pyarrow.Array") -> list[Any]:
    """Returns the values; the shortest decimals of single precision, and b"" for broken text."""
    import numpy as np
    from pyarrow import types

    try:
        values = column.to_pylist()
    except UnicodeDecodeError:
        return [_python_value(value) for value in column]
    if types.is_float32(column.type):  # 3.8 would be 3.799999952316284
        return [None if value is None else float(str(np.float32(value))) for value in values]
    return values


def _python_value(value: "pyarrow.Scalar") -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return b""


def _class_names(path: Path, schema: "pyarrow.Schema") -> dict[str, tuple[str, ...]]:
    """Returns the names of classes by column, for columns of their numbers."""
    from pyarrow import types

    stored = (schema.metadata or {}).get(METADATA)
    if not stored:
        return {}
    try:
        features = json.loads(stored)["info"]["features"]
        found = {name: _names_in(feature) for name, feature in features.items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise StageError(f"{path}: the names of its classes cannot be read from it") from error
    numbers = {
        field.name
        for field in schema
        if types.is_integer(field.type) or types.is_nested(field.type)
    }
    return {name: names for name, names in found.items() if names and name in numbers}


def _names_in(feature: Any) -> tuple[str, ...]:
    """feature: of `datasets`; a list is one with the feature of its elements in it."""
    if isinstance(feature, list):
        return _names_in(feature[0])
    if feature.get("_type") == "ClassLabel":
        return tuple(map(str, feature["names"]))
    return _names_in(feature["feature"]) if isinstance(feature.get("feature"), dict) else ()


def _checked(row: Sequence[Any], classes: Sequence[tuple[str, ...]]) -> Sequence[Any] | str:
    """Returns the values with names in place of numbers of classes, or the row's problem."""
    if problem := problem_of_text("".join(value for value in row if isinstance(value, str))):
        return problem
    try:
        return [_named(value, names) for value, names in zip(row, classes, strict=True)]
    except ValueError as error:
        return str(error)


def _named(value: Any, names: tuple[str, ...]) -> Any:
    """Returns names in place of numbers, if there are any, None for a number that means no class.

    Raises ValueError for a number without a name.
    """
    if not names:
        return value
    if value is None or value == NO_CLASS:
        return None
    if isinstance(value, list):
        return [_named(number, names) for number in value]
    if not 0 <= value < len(names):
        raise ValueError(f"class {value}, expected one of {len(names)} names")
    return names[value]


def file_state(path: Path) -> tuple[int, int]:
    """Returns size and mtime; a process reads a file, or a folder, again only if they change."""
    states = [file.stat() for file in (path, *(parquet_files(path) if path.is_dir() else ()))]
    return sum(state.st_size for state in states), max(state.st_mtime_ns for state in states)
