"""Predicts a file of any size with a finetuned model.

    python -m finetune.predict MODEL notes.csv --output answers.csv

Writes the columns of the file, and those of the answers (finetune/prediction/answers.py). MODEL is
the folder of a model finetuned here, or any classifier of transformers. An interrupted prediction
goes on with `--resume`, and ends with the same bytes.
"""

import argparse
import os
import signal
import sys
from dataclasses import fields
from pathlib import Path

if __name__ == "__main__":  # imports are those of the repository, not of this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from pipeline.environment import enter_environment

    enter_environment()

from finetune.prediction.input_tables import ENDINGS
from finetune.prediction.predicting import predict
from finetune.prediction.request import Request
from finetune.prediction.unfinished import delete_begun
from pipeline.console import Console, escape_unprintable, print_line
from pipeline.errors import ConfigError, StageError
from pipeline.privacy import private_files
from pipeline.runtime.devices import take_device
from pipeline.store.ownership import lock_path, owned

STAGE = "predict"  # on the console
REQUESTED = {field.name for field in fields(Request)}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="finetune.predict",
        description="Predict a file of any size with a finetuned model.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="folder or Hub name of a finetuned classifier")
    files = f"{', '.join(ENDINGS)} or a folder of .parquet; for entities also a token in each line"
    add("file", metavar="FILE", type=Path, help=files)
    endings = f"{', '.join(ENDINGS)}; entities: .jsonl, or FILE's"
    add("--output", required=True, type=Path, metavar="FILE", help=endings)
    columns = "with the text, or the two texts of a pair; default: the model's"
    add("--text_columns", nargs="+", default=[], metavar="COLUMN", help=columns)
    header = "all columns of a .csv or .tsv file without a header line"
    add("--columns", nargs="+", default=[], metavar="COLUMN", help=header)
    add("--prefix", default="", help="put before the names of the new columns")
    tags = "of a file with a token in each line, from 2 on; default: as in training, else the last"
    add("--tag_column", type=int, default=0, metavar="NUMBER", help=tags)
    windows = "read long texts to their end, in overlapping windows; default: they are truncated"
    add("--windows", action="store_true", help=windows)
    add("--resume", action="store_true", help="go on with an interrupted prediction")
    add("--overwrite", action="store_true", help="replace the output")
    add("--use_cpu", action="store_true", help="even if there are GPUs")
    return parser


@private_files()
def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 done, 2 the command line is wrong, 3 the prediction failed, 130 interrupted."""
    escape_unprintable()
    flags = build_parser().parse_args(arguments)
    take_device("cpu" if flags.use_cpu else "auto")
    try:
        run(flags)
    except ConfigError as error:
        for problem in error.problems:
            print_line(f"{STAGE}: {problem}", sys.stderr)
        return error.exit_code
    except (StageError, OSError, ValueError) as error:
        print_line(f"{STAGE}: {error}{_way_on(flags.output)}", sys.stderr)
        return 3
    except KeyboardInterrupt:
        print_line(f"{STAGE}: interrupted{_way_on(flags.output)}", sys.stderr)
        return 130
    return 0


def _way_on(output: Path) -> str:
    return "; --resume goes on from here" if begun_at(output).exists() else ""


def begun_at(output: Path) -> Path:
    """Returns the folder of an unfinished prediction."""
    return output.with_name(f"{output.name}.part")


def run(flags: argparse.Namespace) -> None:
    """Predicts by the flags.

    Raises ConfigError for flags that do not fit the file, the model or an unfinished prediction,
    StageError as the functions that it calls.
    """
    folder = begun_at(flags.output)
    console = Console(STAGE, Path(os.devnull))
    with owned(folder, console.say):
        try:
            _check_output(flags, folder)
            given = vars(flags).items()
            predict(Request(folder, **{k: v for k, v in given if k in REQUESTED}), console)
        finally:
            if not folder.exists():
                lock_path(folder).unlink(missing_ok=True)


def _check_output(flags: argparse.Namespace, folder: Path) -> None:
    """Raises ConfigError if the output or a part of it is there already, and not to be replaced."""
    if flags.output.is_dir():
        raise ConfigError([f"--output: {flags.output} is a folder, expected a file"])
    goes_on = flags.resume and folder.exists()
    if folder.exists() and not (flags.resume or flags.overwrite):
        raise ConfigError(
            [f"{folder} is an unfinished prediction: --resume goes on, --overwrite begins anew"]
        )
    if flags.output.exists() and not (goes_on or flags.overwrite):
        raise ConfigError([f"--output: {flags.output} is there already; --overwrite replaces it"])
    if not goes_on:
        delete_begun(folder)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):  # a scheduler's, and that of a lost terminal
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, signal.default_int_handler)
    sys.exit(main())
