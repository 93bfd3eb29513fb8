"""Plans the stages, prints the plan with its reasons, and runs them in order."""

import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

from yacs.config import CfgNode

from configs.phases import in_phase
from pipeline.console import duration, print_line
from pipeline.environment import continue_inside_environment
from pipeline.errors import ConfigError, MachineError, StageError
from pipeline.hub.needs import HubNeed, hub_problems
from pipeline.privacy import private_files
from pipeline.stage_plan import STAGE_NAMES, Estimate, StagePlan
from pipeline.stages import STAGES, Stage, plan_stage
from pipeline.store.artifacts import Status
from pipeline.store.disk import DiskNeed, shortages, space_in_words
from pipeline.store.ownership import InUse, is_owned, owner
from pretrain.start.completion import completed


@dataclass(frozen=True)
class Step:
    """A stage of this command: its plan, its status, and why it runs again if it is finished.

    estimate: empty if nobody will ask for it.
    """

    stage: Stage
    plan: StagePlan
    status: Status
    forced: str = ""
    estimate: Estimate = field(default_factory=Estimate)

    @property
    def runs(self) -> bool:
        return bool(self.forced) or not self.status.done

    def in_words(self, planned: bool = False) -> str:
        """Returns the action and its reason; planned: for a dry run."""
        verb = "would run" if planned else "running"
        if self.forced:
            count = len(self.plan.links)
            which = (
                f"all {count} phases, " if count > 1 else self.plan.label and f"{self.plan.label}, "
            )
            return f"{self.stage.name}: {verb} again, {which}{self.forced}"
        if self.status.done:
            return f"{self.stage.name}: up to date ({self.plan.place})"
        return f"{self.stage.name}: {verb}, {self.status.reason}"


def run_pipeline(
    config: CfgNode,
    stages: Collection[str] = STAGE_NAMES,
    force: Collection[str] = (),
    dry_run: bool = False,
    wait: bool = False,
) -> None:
    """Runs the enabled stages among `stages`; repeats those in `force`, and the stages above them.

    wait: for other runs that use the same artifacts. Raises ConfigError before anything is
    touched, StageError when a stage fails or, without `wait`, another run has its artifact.
    """
    config = completed(config)
    steps = {step.stage.name: step for step in plan_steps(config, stages, force, dry_run, wait)}
    done: dict[str, StagePlan] = {}
    for stage in STAGES:
        if stage.name not in stages:
            continue
        step = steps.get(stage.name)
        if step is None:
            print_line(f"{stage.name}: switched off")
        elif dry_run:
            _print_plan(config, step)
        elif not step.runs:
            print_line(step.in_words())
            for line in step.plan.headline:
                print_line(f"  {line}")
        else:
            if done:
                step = _plan_again(config, step, done)
            _run(config, step, wait)
            if stage.restarts:  # this process holds the old packages
                _continue(stages, force, stage.name)
            done[stage.name] = step.plan
    if dry_run:
        for line in space_in_words(_disk_needs(steps.values())):
            print_line(line)


def plan_steps(
    config: CfgNode,
    stages: Collection[str],
    force: Collection[str] = (),
    dry_run: bool = False,
    wait: bool = False,
) -> list[Step]:
    """Plans the enabled stages among `stages`.

    wait: artifacts that another run is making count as finished. Raises ConfigError, with all
    problems, if a stage could not do its work; MachineError if only this machine is to blame.
    """
    plans: dict[str, StagePlan] = {}
    steps: list[Step] = []
    problems: list[str] = []
    of_machine: set[str] = set()
    for stage in STAGES:
        if stage.name not in stages or not stage.enabled(config):
            continue
        try:
            plan = plan_stage(config, stage, plans)
            step = Step(stage, plan, plan.status(), _force(stage, config, force, steps))
            steps.append(step)
            plan.check_owner(forced=bool(step.forced))
            if step.runs:
                problems += dict.fromkeys(_missing_upstream(step, steps, wait))
                _check_machine(config, step)
            if step.runs or dry_run:
                steps[-1] = replace(step, estimate=_estimate(config, step))
        except ConfigError as error:
            if isinstance(error, MachineError):
                of_machine.update(error.problems)
            problems += [line for line in error.problems if line not in problems]
        except (OSError, ValueError) as error:
            problems.append(f"{stage.name}: {error}")
    problems += shortages(_disk_needs(steps))
    problems += hub_problems([need for step in steps if step.runs for need in step.estimate.hub])
    if problems:
        raise (MachineError if of_machine.issuperset(problems) else ConfigError)(problems)
    return steps


def _plan_again(config: CfgNode, step: Step, done: dict[str, StagePlan]) -> Step:
    """Plans a stage again when its turn comes: its files may have changed in days of training.

    done: plans of the stages that ran. Raises ConfigError, or StageError for unreadable files.
    """
    try:
        plan = plan_stage(config, step.stage, dict(done))
        return replace(step, plan=plan, status=plan.status())
    except OSError as error:
        raise StageError(str(error), stage=step.stage.name) from error


def _disk_needs(steps: Iterable[Step]) -> list[DiskNeed]:
    return [need for step in steps if step.runs for need in step.estimate.disk]


def _force(stage: Stage, config: CfgNode, force: Collection[str], steps: list[Step]) -> str:
    """Returns why a finished stage runs again, or an empty string."""
    if stage.name in force:
        return "as asked"
    upstream = stage.upstream(config)
    if any(step.forced for step in steps if step.stage is upstream):
        return f"because {stage.needs} is"
    return ""


def _links(step: Step) -> list[StagePlan]:
    """Returns the links of the stage that run."""
    return list(step.plan.links) if step.forced else step.plan.pending()


def _check_machine(config: CfgNode, step: Step) -> None:
    """Raises ConfigError if this machine cannot run a link; names the phase of each problem."""
    problems: list[str] = []
    of_machine = True
    for link in _links(step):
        try:
            step.stage.check_machine(link.config or config, link)
        except ConfigError as error:
            of_machine &= isinstance(error, MachineError)
            lines = [line for line in error.problems if line not in problems]
            if link.phase and not problems:
                phase = config.PRETRAIN.PHASES[link.phase - 1]
                lines = [in_phase(line, link.phase, phase) for line in lines]
            problems += lines
    if problems:
        raise (MachineError if of_machine else ConfigError)(problems)


def _estimate(config: CfgNode, step: Step) -> Estimate:
    """Returns the notes on all links, and the needs of those that run."""
    pending = {link.place for link in _links(step)}
    notes: list[str] = []
    disk: list[DiskNeed] = []
    hub: list[HubNeed] = []
    for link in step.plan.links:
        found = step.stage.estimate(link.config or config, link)
        own = [note for note in found.notes if note not in notes]
        notes += [f"{link.label}:", *(f"  {note}" for note in own)] if link.label else own
        if link.place in pending or not link.label:
            disk += found.disk
            hub += found.hub
    return Estimate(tuple(notes), tuple(disk), tuple(hub))


def _missing_upstream(step: Step, steps: list[Step], wait: bool) -> Iterator[str]:
    """Yields a line if the stage below is neither finished nor part of this command."""
    stage = step.stage
    made = {link.place for other in steps for link in other.plan.links}
    for link in _links(step):
        upstream = link.upstream
        if upstream is None or upstream.place in made:
            continue
        directory, status = upstream.artifact.directory, upstream.artifact.status()
        is_being_made = is_owned(directory)
        if status.done or (wait and is_being_made):
            continue
        at_work = f"{owner(directory)} is making it" if is_being_made else ""
        yield (
            f"{stage.needs.upper()}.ENABLED: the {stage.name} stage builds on the {stage.needs} "
            f"stage, which is not part of this run and not done ({at_work or status.reason}); run "
            f"it first, with --stages {stage.needs} {stage.needs.upper()}.ENABLED True"
        )


def _print_plan(config: CfgNode, step: Step) -> None:
    print_line(step.in_words(planned=True))
    for note in step.estimate.notes:
        print_line(f"  {note}")
    if step.runs:
        for note in step.stage.run_notes(config, step.plan):
            print_line(f"  {note}")
        for need in step.estimate.hub:
            print_line(f"  from the Hub, where it can be loaded: {need}")


@private_files()
def _run(config: CfgNode, step: Step, wait: bool) -> None:
    """Runs the links of a stage that are not finished, in order; all of them if it is forced."""
    name, links = step.stage.name, _links(step)

    def say(text: str) -> None:
        print_line(f"{name}: {text}")

    if not links:  # another run has come in between
        print_line(replace(step, status=step.plan.status()).in_words())
    try:
        if step.forced:  # a kill must not leave a later link that passes for finished
            for link in reversed(links[1:]):
                with link.locked(say, wait):
                    link.clear()
        for link in links:
            _run_link(link.config or config, replace(step, plan=link), wait, say)
    except InUse as error:
        cause = f"{error.cause}; run it again when that is over, or with --wait"
        raise StageError(cause, stage=name) from error
    except StageError as error:
        raise StageError(error.cause, error.log, name) from error
    except OSError as error:  # a full disk, a folder without permission
        raise StageError(str(error), stage=name) from error


def _run_link(config: CfgNode, step: Step, wait: bool, say: Callable[[str], None]) -> None:
    plan = step.plan
    with plan.locked(say, wait):
        step = replace(step, status=plan.status())  # another run may have come in between
        print_line(step.in_words())
        if not step.runs:
            return
        begin = time.monotonic()
        if step.forced:
            plan.clear()
        if problems := shortages(step.estimate.disk):  # earlier stages have taken their part
            raise StageError(problems[0])
        step.stage.run(config, plan)
        seconds = time.monotonic() - begin
        plan.record_time(seconds)
    say(f"{plan.label and f'{plan.label} '}done in {duration(seconds)}")


def _continue(stages: Collection[str], force: Collection[str], done: str) -> None:
    """Replaces this process by a new one for the other stages, if any."""
    rest = ",".join(name for name in stages if name != done)
    if rest:
        forced = [word for name in force if name != done for word in ("--force", name)]
        continue_inside_environment([*_without_options(sys.argv[1:]), "--stages", rest, *forced])


def _without_options(arguments: list[str]) -> list[str]:
    """Returns the command line without --stages and --force."""
    kept, words = [], iter(arguments)
    for word in words:
        if word in ("--stages", "--force"):
            next(words, None)
        elif not word.startswith(("--stages=", "--force=")):
            kept.append(word)
    return kept
