"""Progress of each stage, for `main.py --status`, during a run or after it.

Only reads: the run may belong to another process, or to another server with the same file system.
"""

from collections.abc import Collection, Iterator
from datetime import datetime

from yacs.config import CfgNode

from pipeline.console import duration, position_in_words, print_line
from pipeline.errors import ConfigError
from pipeline.stage_plan import STAGE_NAMES, StagePlan
from pipeline.stages import STAGES, Stage, plan_stage
from pipeline.store.artifacts import Artifact
from pipeline.store.heartbeat import Beat, read_heartbeat
from pipeline.store.ownership import is_owned, owner
from pretrain.start.completion import completed

# A run writes its heartbeat every ten seconds, except in long steps.
SILENT_SECONDS = 300.0
WORDS = {
    "new": "not begun, ",
    "unfinished": "interrupted, ",
    "changed": "changed, ",
    "extended": "to be ",  # the reason begins with what it is to be
}


def report_status(config: CfgNode, stages: Collection[str] = STAGE_NAMES) -> None:
    """Prints a few lines for each stage in `stages`."""
    plans: dict[str, StagePlan] = {}
    config = completed(config)
    for stage in STAGES:
        if stage.name in stages and stage.name != "install":
            for line in _stage_lines(stage, config, plans):
                print_line(line)


def _stage_lines(stage: Stage, config: CfgNode, plans: dict[str, StagePlan]) -> Iterator[str]:
    if not stage.enabled(config):
        yield f"{stage.name}: switched off"
        return
    try:
        link = _link_at_work(plan_stage(config, stage, plans))
        state, *details = _lines(stage, link.artifact)
        if link.label and link.artifact.status().state != "done":
            state = f"{link.label} {state}"
    except (ConfigError, OSError, ValueError) as error:
        state, *details = "cannot be told from here", *str(error).splitlines()
    yield f"{stage.name}: {state}"
    for detail in details:
        yield f"  {detail}"


def _link_at_work(plan: StagePlan) -> StagePlan:
    """Returns the link that is being made, else the first pending one, else the last one."""
    if not plan.earlier:
        return plan
    running = [link for link in plan.links if is_owned(link.artifact.directory)]
    return next(iter([*running, *plan.pending()]), plan.links[-1])


def _lines(stage: Stage, artifact: Artifact) -> Iterator[str]:
    """Yields the state in one line, then details."""
    directory, status = artifact.directory, artifact.status()
    latest = owner(directory)
    beat = read_heartbeat(directory)
    if beat and latest and not latest.startswith(f"{beat.by} since "):
        beat = None  # from an earlier run
    running = is_owned(directory)
    if running is None:
        running = beat is not None and beat.age_seconds < SILENT_SECONDS
    if running:
        other = f", with other settings: {status.reason}" if status.state == "changed" else ""
        yield f"running, by {latest or 'another process'}{other}"
        yield from _progress(beat)
    elif status.done:
        yield f"up to date ({directory}){_finished(artifact)}"
        yield from artifact.headline
        return
    else:
        reason = status.reason.removeprefix("was interrupted, ")
        yield f"{WORDS[status.state]}{reason}"
        if status.state != "unfinished":
            return
        yield from _end(beat)
    yield from stage.found(artifact)
    if beat:
        yield _age(beat, running)


def _finished(artifact: Artifact) -> str:
    """Returns the end and duration of the finishing command."""
    manifest = artifact.manifest or {}  # another run may have just cleared it
    if "finished_at" not in manifest:
        return ""
    at = datetime.fromisoformat(manifest["finished_at"])
    return f", {at:%Y-%m-%d %H:%M:%S %z} in {duration(manifest['seconds'])}"


def _progress(beat: Beat | None) -> Iterator[str]:
    if beat and beat.position:
        yield ", ".join(position_in_words(beat.position))
    elif beat and beat.said:
        yield beat.said


def _end(beat: Beat | None) -> Iterator[str]:
    """Yields the last position of a dead run, and the recorded cause."""
    if beat and beat.position:
        yield ", ".join(filter(None, (beat.position.share, beat.position.note)))
    if beat and beat.failed:
        yield f"failed: {beat.failed}"


def _age(beat: Beat, running: bool) -> str:
    age = duration(beat.age_seconds)
    if not running:
        return f"last sign of life {age} ago; {beat.by} is gone"
    if beat.age_seconds < SILENT_SECONDS:
        return f"last sign of life {age} ago"
    return f"no sign of life for {age}, but {beat.by} has not ended"
