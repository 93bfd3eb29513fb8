"""The two kinds of errors, each with its exit code."""

import re
from pathlib import Path

MAX_PROBLEMS = 100  # shown at once
MAX_LINE = 2000  # characters
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def in_one_line(text: str) -> str:
    """Escapes line breaks and control characters, as `\\n`."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class ConfigError(Exception):
    """The config or the command line is wrong; nothing was written. Exit code 2.

    problems: one line each, `KEY: the problem, got X, expected Y`, up to MAX_PROBLEMS.
    """

    def __init__(self, problems: list[str]):
        self.problems = [in_one_line(problem)[:MAX_LINE] for problem in problems[:MAX_PROBLEMS]]
        if len(problems) > MAX_PROBLEMS:
            self.problems.append(f"and {len(problems) - MAX_PROBLEMS:,} more problems")
        super().__init__("\n".join(self.problems))


class StageError(Exception):
    """A stage failed. Exit code 3.

    cause: one line. log: the file with the details, if any. stage: its name, once it is known.
    """

    def __init__(self, cause: str, log: Path | None = None, stage: str = ""):
        super().__init__(cause)
        self.cause = cause
        self.log = log
        self.stage = stage
