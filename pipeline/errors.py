"""The two ways in which a run can go wrong, each with its exit code."""

from pathlib import Path


class ConfigError(Exception):
    """The config or the command line is wrong; nothing was touched. Exit code 2.

    problems: one line each, `KEY: what is wrong, got X, expected Y`.
    """

    def __init__(self, problems: list[str]):
        super().__init__("\n".join(problems))
        self.problems = problems


class StageError(Exception):
    """A stage failed. Exit code 3.

    cause: one line; log: the file that holds the details, if there is one; stage: its name, once
    it is known.
    """

    def __init__(self, cause: str, log: Path | None = None, stage: str = ""):
        super().__init__(cause)
        self.cause = cause
        self.log = log
        self.stage = stage
