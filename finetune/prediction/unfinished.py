"""The folder of an unfinished prediction, beside its output: answers so far, and how far they go.

`answers.jsonl` has a line per row. The record is written after each piece of rows: what a kill
leaves behind the recorded end is cut off.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finetune.data.token_counts import TokenCounts
from finetune.prediction.lost_text import LostText
from pipeline.errors import ConfigError
from pipeline.store.atomic_files import write_sealed
from pipeline.store.record_files import delete_tree, delete_unfinished, read_sealed

ANSWERS, RECORD = "answers.jsonl", "record.json"
WRITTEN = "written"  # the output, if it is complete before it is moved into place
FORMAT = 1  # of these files
BEGIN_ANEW = "--overwrite without --resume begins anew"


@dataclass(frozen=True)
class Position:
    """rows, num_bytes: of the answers. batch_tokens: for the next ones; a lack of memory lowers it.
    lost: of the rows so far."""

    rows: int
    num_bytes: int
    batch_tokens: int
    lost: LostText


class Unfinished:
    """inputs: what the answers depend on, by name in words. facts: on the input."""

    def __init__(
        self,
        folder: Path,
        inputs: Mapping[str, Any],
        facts: Mapping[str, Any],
        position: Position,
    ):
        self.folder, self.inputs, self.facts, self.position = folder, inputs, facts, position

    def cut(self) -> None:
        """Drops answers without a record, and temporary files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        delete_unfinished(self.folder)
        if not self.position.rows:
            self._write_record()
        with open(self.folder / ANSWERS, "ab") as file:
            file.truncate(self.position.num_bytes)

    def add(self, answers: Iterable[Any], batch_tokens: int, lost: LostText) -> None:
        """Appends the answers to the next rows, durably."""
        lines = [json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers]
        with open(self.folder / ANSWERS, "ab") as file:
            file.write("".join(lines).encode())
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        before = self.position
        self.position = Position(before.rows + len(lines), size, batch_tokens, before.lost + lost)
        self._write_record()

    def drop_if_empty(self) -> None:
        """Deletes the folder if there is nothing to go on with."""
        if not self.position.rows:
            delete_tree(self.folder)

    def answers(self) -> Iterator[Any]:
        """Yields the answers to all rows."""
        with open(self.folder / ANSWERS, encoding="utf-8", newline="\n") as lines:
            yield from map(json.loads, lines)

    def _write_record(self) -> None:
        record = {"format": FORMAT, "inputs": self.inputs, "facts": self.facts}
        write_sealed(self.folder / RECORD, record | asdict(self.position))


def read_unfinished(folder: Path, inputs: Mapping[str, Any]) -> Unfinished | None:
    """Returns the unfinished prediction, None if it has not begun.

    Raises ConfigError if its files are damaged, or other inputs began it.
    """
    if not (folder / RECORD).exists():
        return None
    found = read_sealed(folder / RECORD)
    if found is None or found.get("format") != FORMAT:
        raise _unusable(f"{folder / RECORD} is damaged or of another version")
    plain = json.loads(json.dumps(inputs))
    if changed := [name for name in plain if plain[name] != found["inputs"].get(name)]:
        raise _unusable(f"{folder} was begun with another {' and another '.join(changed)}")
    answers = folder / ANSWERS
    if found["num_bytes"] > (answers.stat().st_size if answers.exists() else 0):
        raise _unusable(f"{answers} is damaged")
    lost = LostText(TokenCounts(**found["lost"]["counts"]), tuple(found["lost"]["words"]))
    position = Position(found["rows"], found["num_bytes"], found["batch_tokens"], lost)
    return Unfinished(folder, inputs, found["facts"], position)


def _unusable(problem: str) -> ConfigError:
    return ConfigError([f"--resume: {problem}; {BEGIN_ANEW}"])


def delete_begun(folder: Path) -> None:
    """Deletes the folder of an unfinished prediction; raises ConfigError for any other folder."""
    if not folder.exists():
        return
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    if not names <= {ANSWERS, RECORD, WRITTEN}:
        raise ConfigError([f"{folder} is no unfinished prediction, and not deleted"])
    delete_tree(folder)
