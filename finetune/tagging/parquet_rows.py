"""Rows of Parquet files with tags.

Tags may be numbers of names, which are in the metadata that `datasets` writes; -1 is no tag.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset.sources.parquet_files import open_parquet_file
from finetune.tagging.sentences import place_in
from pipeline.errors import StageError
from pipeline.hub.requests import first_line
from pipeline.user_files.file_checks import shown_list

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

BATCH_ROWS = 1024  # also of a row group of predictions
NO_TAG = -1
TAG_COLUMNS = ("tags", "ner_tags")  # the first one that is there counts
HUB_METADATA = b"huggingface"
Row = dict[str, Any]


def iter_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Yields (number from 1, row) of tokens, or of texts if there are none, with tags as texts.

    Raises StageError for a damaged file, one without tokens and text, and tags without names.
    """
    file, schema = _opened(path)
    with file:
        numbered = [name for name in TAG_COLUMNS if _has_numbers(schema, name)]
        names = {name: tag_names(schema, name) for name in numbered}
        number = 0
        for batch in _batches(path, file, _known_columns(schema)):
            for row in batch.to_pylist():
                number += 1
                for column, words in names.items():
                    place = f"{place_in(path, number)}: {column}"
                    row[column] = _named(row[column], words, place)
                yield number, row


def write_rows(
    source: Path,
    target: Path,
    predicted: Callable[[int, Row], list],
) -> None:
    """Copies a file with the column `tags` of predictions, or `spans` if it has no tokens.

    predicted: gives the value for one of `iter_rows`, without its tags.
    """
    import pyarrow
    import pyarrow.parquet

    file, schema = _opened(source)
    name = "tags" if "tokens" in schema.names else "spans"
    field = pyarrow.field(name, _kind(name))
    place = schema.get_field_index(name)
    new = schema.append(field) if place < 0 else schema.set(place, field)
    new = new.with_metadata(_metadata_with(schema, name))
    text = "tokens" if name == "tags" else "text"
    number = 0
    with file, pyarrow.parquet.ParquetWriter(str(target), new) as writer:
        for batch in _batches(source, file, None):
            found = []
            for row in batch.select([text]).to_pylist():
                number += 1
                found.append(predicted(number, row))
            arrays = dict(zip(batch.schema.names, batch.columns, strict=True))
            arrays[name] = pyarrow.array(found, field.type)
            writer.write_table(pyarrow.table([arrays[one] for one in new.names], schema=new))


def tag_names(schema: "pyarrow.Schema", column: str) -> list[str]:
    """Returns the names of a column's numbers, by the metadata of `datasets`, or an empty list."""
    feature: Any = _features(schema).get(column)
    if isinstance(feature, list) and feature:  # as old releases wrote it
        feature = {"feature": feature[0]}
    inner = feature.get("feature") if isinstance(feature, dict) else None
    names = inner.get("names") if isinstance(inner, dict) else None
    return names if isinstance(names, list) else []


def _features(schema: "pyarrow.Schema") -> dict[str, Any]:
    try:
        features = json.loads((schema.metadata or {})[HUB_METADATA])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return features if isinstance(features, dict) else {}


def _has_numbers(schema: "pyarrow.Schema", column: str) -> bool:
    from pyarrow import types

    if column not in schema.names:
        return False
    kind = schema.field(column).type
    return hasattr(kind, "value_type") and types.is_integer(kind.value_type)


def _named(numbers: list[int | None] | None, names: Sequence[str], place: str) -> list[str] | None:
    """Returns the names of tags, or None if all are -1. Raises StageError for another number."""
    if numbers is None or (numbers and all(number == NO_TAG for number in numbers)):
        return None
    if not names:
        raise StageError(
            f"{place} are numbers, and the metadata of `datasets`, which names them, is not in the "
            "file, expected texts like B-PER"
        )
    for number in numbers:
        if number is None or not 0 <= number < len(names):
            raise StageError(f"{place} has {number}, expected 0 to {len(names) - 1}")
    return [names[number] for number in numbers if number is not None]


def _kind(name: str) -> "pyarrow.DataType":
    import pyarrow

    if name == "tags":
        return pyarrow.list_(pyarrow.string())
    whole, text = pyarrow.int64(), pyarrow.string()
    return pyarrow.list_(pyarrow.struct({"start": whole, "end": whole, "label": text}))


def _metadata_with(schema: "pyarrow.Schema", name: str) -> Mapping[bytes, bytes] | None:
    """Returns the metadata with the new column; `datasets` refuses a column without any."""
    if not (features := _features(schema)):
        return schema.metadata
    text, whole = ({"dtype": kind, "_type": "Value"} for kind in ("string", "int64"))
    inner: Any = text if name == "tags" else {"start": whole, "end": whole, "label": text}
    # This form means a list in all releases of `datasets`.
    features[name] = [inner]
    record = json.loads(schema.metadata[HUB_METADATA])
    record["info"]["features"] = features
    return schema.metadata | {HUB_METADATA: json.dumps(record).encode()}


# --- reading ----------------------------------------------------------------------------------


def _opened(path: Path) -> tuple["pyarrow.parquet.ParquetFile", "pyarrow.Schema"]:
    file = open_parquet_file(str(path))
    with _explained(path):
        schema = file.schema_arrow
    if not {"tokens", "text"} & set(schema.names):
        raise StageError(
            f"{path}: has the columns {shown_list(schema.names)}, "
            "expected `tokens` and `tags`, or `text` and `spans`"
        )
    return file, schema


def _known_columns(schema: "pyarrow.Schema") -> list[str]:
    known = ("tokens", *TAG_COLUMNS) if "tokens" in schema.names else ("text", "spans")
    return [name for name in known if name in schema.names]


def _batches(
    path: Path, file: "pyarrow.parquet.ParquetFile", columns: Sequence[str] | None
) -> Iterator["pyarrow.RecordBatch"]:
    """Yields the rows. Raises StageError if some cannot be read."""
    number = 0
    with _explained(path):
        for batch in file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
            number += len(batch)
            yield batch
    if number != file.metadata.num_rows:
        raise StageError(f"{path}: damaged, rows are missing")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (OSError, ValueError, MemoryError, pyarrow.ArrowException) as error:
        raise StageError(f"{path}: damaged ({first_line(error)})") from error
