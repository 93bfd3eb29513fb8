"""The cause of a failed training, from the error log and exit codes of its ranks."""

import re
import signal
from pathlib import Path

from pipeline.runtime.oom import OomKills, cause_of_death
from pretrain.engine.memory_limits import lower_limit, shortage_in

# The last line of a traceback, with the server and the rank that launchers put in front of it.
EXCEPTION = re.compile(
    r"^(?:\S+: )?(?:\[rank\d+\]: )?((?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b.*)"
)
# Errors of the surviving ranks after one has died.
AFTERMATH = re.compile(r"connection (closed|reset)|DistBackendError|gloo|NCCL|Broken pipe", re.I)
# Exit codes of the launcher after a rank was killed: the rank's code, that of a rank that lost its
# peer, or 0 if the server's own launcher was killed.
CODES_OF_KILL = (-signal.SIGKILL, 1, 0)


class Failure:
    """A training that ended without a model.

    errors: lines of the error log since its start. code: exit code of the launcher. kills: the
    kernel's count of processes killed for memory.
    """

    def __init__(self, errors: list[str], code: int, kills: OomKills):
        self.errors, self.code, self.kills = errors, _exit_code_of_rank(code), kills

    def shortage(self, output_dir: Path) -> str:
        """Returns a line on a lack of memory that the next start may avoid, or an empty string.

        Lowers the memory limit that the next start reads, if ranks were killed. Other causes of a
        kill are told apart by the kernel's count.
        """
        if found := shortage_in(self.errors):
            return found
        if self._was_killed and (comes_next := lower_limit(output_dir)):
            return f"a training process {cause_of_death(-signal.SIGKILL, self.kills)}; {comes_next}"
        return ""

    @property
    def cause(self) -> str:
        """The last exception in the error log, or else how the ranks ended."""
        if self._explanations:
            return self._explanations[-1]
        code = -signal.SIGKILL if self._was_killed else self.code
        ended = f"a training process {cause_of_death(code, self.kills)}"
        if code < 0:
            return ended
        return (self._exceptions or [f"{ended}, without saying why"])[-1]

    @property
    def _was_killed(self) -> bool:
        return bool(self.kills.happened) and not self._explanations and self.code in CODES_OF_KILL

    @property
    def _exceptions(self) -> list[str]:
        return [found.group(1) for found in map(EXCEPTION.match, self.errors) if found]

    @property
    def _explanations(self) -> list[str]:
        """Exceptions that do not just follow from the end of another rank, or argparse's errors."""
        own = [line for line in self._exceptions if not AFTERMATH.search(line)]
        return own or [line for line in self.errors if ": error: " in line]


def _exit_code_of_rank(code: int) -> int:
    """Returns a rank's exit code as `subprocess` has it, negative for a signal.

    The launcher passes on the lowest byte of a negative code. Shells, and ranks that have saved
    first, exit with 128 plus the signal.
    """
    if 128 < code < 128 + signal.NSIG:
        return 128 - code
    return code - 256 if code > 256 - signal.NSIG else code
