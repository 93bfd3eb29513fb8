"""Writes a task's test set again, with the predicted tags, in the format of its files."""

from collections.abc import Iterator
from pathlib import Path

from finetune.data.tasks import Split, Task
from finetune.tagging.tagged_files import write_predictions
from pipeline.errors import StageError
from pipeline.store.record_files import delete_tree


def write_tagged(task: Task, split: Split, predictions: Path, folder: Path) -> Path:
    """Returns the file, or the folder of files, that it writes into `folder`.

    predictions: of the best run, the tags of each sentence in a line. Raises StageError if the test
    set has changed since.
    """
    source = Path(split.files[0])
    target = folder / f"{task.name}.predicted{source.suffix if source.is_file() else ''}"
    if target.is_dir():
        delete_tree(target)  # files of an older test set
    else:
        target.unlink(missing_ok=True)
    try:
        write_predictions(source, target, _tags(task, predictions), task.scheme, split.tag_column)
    except ValueError as error:
        raise StageError(f"{source}: not the test set of the search any more ({error})") from error
    return target


def _tags(task: Task, predictions: Path) -> Iterator[list[str]]:
    """Yields the tags of each sentence, in the words of the task's labels."""
    words = {spelling: tag for tag, spelling in task.labels.items()}
    with open(predictions, encoding="utf-8") as lines:
        next(lines)  # the header
        for line in lines:
            yield [words[spelling] for spelling in line.rstrip("\n").split("\t")[1].split(" ")]
