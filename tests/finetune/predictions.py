"""Files to predict, and the command for them."""

import csv
import json
import random
from pathlib import Path

from finetune import predict
from tests.finetune.classifiers import WORDS

PIECE = 16  # rows, in place of thousands
ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")


class Killed(BaseException):
    """As SIGKILL: nothing catches it."""


def die(*_):
    raise Killed


def texts(number: int) -> list[str]:
    chosen = random.Random(number)
    return [" ".join(chosen.choices(WORDS, k=chosen.randint(1, 20))) for _ in range(number)]


def write_rows(path: Path, number: int) -> list[dict[str, str]]:
    """A table of a file, with cells that its format has to quote."""
    rows = [
        {"id": str(i), "note": 'a "b", ü', "text": text} for i, text in enumerate(texts(number))
    ]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=7)
    else:
        with open(path, "w", newline="") as file:
            if path.suffix == ".csv":
                lines = csv.DictWriter(file, list(rows[0]))
                lines.writeheader()
                lines.writerows(rows)
            else:
                file.writelines(
                    "\t".join(cells) + "\n" for cells in [rows[0], *map(dict.values, rows)]
                )
    return rows


def read_rows(path: Path) -> list[dict]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return pyarrow.parquet.read_table(path).to_pylist()
    with open(path, newline="") as file:
        if path.suffix == ".csv":
            return list(csv.DictReader(file))
        header, *lines = [line.rstrip("\n").split("\t") for line in file]
        return [dict(zip(header, line, strict=True)) for line in lines]


def as_text(row: dict) -> dict[str, str]:
    return {k: f"{v:.6f}" if isinstance(v, float) else str(v) for k, v in row.items()}


def run(model: str, file: Path, output: Path, *flags: str) -> int:
    return predict.main([model, str(file), "--output", str(output), "--use_cpu", *flags])
