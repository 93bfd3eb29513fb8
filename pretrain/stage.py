"""The pretraining stage: starts DeepSpeed on this config's dataset and watches over it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.console import WARNING_PREFIX, Console, print_line, stage_console
from pipeline.errors import StageError
from pipeline.hub.models import local_model
from pipeline.runtime.oom import OomKills
from pipeline.runtime.processes import run_logged
from pipeline.store.artifacts import Artifact
from pipeline.store.atomic_files import write_json
from pipeline.store.paths import CHECKPOINTS, METRICS, MODEL, PHASES, log_path
from pipeline.store.record_files import delete_tree
from pretrain.checkpoint_folders import newest_intact_checkpoint
from pretrain.engine.placement import Placement, place_ranks
from pretrain.engine.ports import free_port
from pretrain.engine.time_limits import SILENT_WHILE_ENDING
from pretrain.engine.watchdog import Patience, SilenceReport
from pretrain.estimate import estimate, precision_in_words
from pretrain.failures import Failure
from pretrain.launch import (
    launch_command,
    launch_environment,
    launcher_words,
    local_ranks,
    training_flags,
)
from pretrain.lengthening import begin_lengthening, schedule_of
from pretrain.optimization.budget import progress_unit
from pretrain.phase_facts import phase_facts
from pretrain.plan import PretrainPlan, plan
from pretrain.start.checkpoint_config import START_KEY
from pretrain.start.completion import completed, on_hub
from pretrain.training.metrics_file import parse_note, parse_progress, parse_warning, read_metrics

if TYPE_CHECKING:
    from yacs.config import CfgNode


def pretrain(config: "CfgNode") -> None:
    """Pretrains the model of this config, or resumes; does nothing if it is finished.

    Raises StageError if the dataset is missing, if training fails, or if the finished model is
    damaged and no checkpoint is left.
    """
    config = completed(config)
    planned = plan(config)
    for link in planned.pending() or planned.links[-1:]:
        run(link.config or config, link)


def run(config: "CfgNode", plan: PretrainPlan) -> None:
    """Trains the planned model, or one phase of it; see `pretrain`."""
    artifact, dataset = plan.artifact, plan.upstream.artifact
    log = log_path(
        Path(config.SYSTEM.OUTPUT_ROOT), "pretrain", dataset.directory.name, artifact.directory.name
    )
    if artifact.status().done:
        print_line(f"pretrain: up to date ({artifact.directory})")
        return
    with stage_console("pretrain", log) as console:
        _check_dataset(dataset)
        _check_checkpoints(artifact, console)
        if plan.previous:
            _check_previous(plan.previous)
        begin_lengthening(artifact, schedule_of(config), console.say)
        artifact.begin()
        delete_tree(artifact.directory / MODEL)  # an old one would be taken for the new one
        if plan.phase:
            write_json(artifact.directory / PHASES, {"phases": phase_facts(plan)})
        console.show_life(artifact.directory)
        for note in estimate(config, plan).notes:
            console.say(note)
        start_from, commits = _fetched(config, plan)
        place = place_ranks(config)
        precision = precision_in_words(config, place.on_gpus)
        console.say(f"on {place} in {precision}: {dataset.directory} -> {artifact.directory}")
        while shortage := _train(config, console, plan, place, start_from):
            console.say(f"{shortage}; training goes on from the newest checkpoint")
        results = _results(artifact.directory) | commits
        if plan.phase:
            results["phases"] = phase_facts(plan, results)
            results["headline"] = [_headline(results)]
        artifact.finish(results)
        console.say(_headline(results))


def _fetched(config: "CfgNode", plan: PretrainPlan) -> tuple[str, dict[str, Any]]:
    """Returns the folder of START_FROM, "" without it, and the results that it adds.

    Downloads a model of the Hub.
    """
    if plan.checkpoint is None:
        return "", {}
    plan.upstream.digests.save()
    if not on_hub(config):
        return str(plan.checkpoint.folder.resolve()), {}
    folder, commits = local_model(config.PRETRAIN.START_FROM, START_KEY, with_card=True)
    return str(Path(folder).absolute()), {"commits": commits}


def _check_dataset(dataset: Artifact) -> None:
    status = dataset.status()
    if not status.done:
        raise StageError(
            f"the dataset {dataset.directory} is not ready ({status.reason}); make it first, "
            f"with --stages dataset and DATASET.ENABLED True"
        )


def _check_checkpoints(artifact: Artifact, console: Console) -> None:
    """Raises StageError if only days of training could replace a damaged model."""
    damage = artifact.damage() if artifact.status().state == "unfinished" else ""
    if not damage:
        return
    if not newest_intact_checkpoint(artifact.directory / CHECKPOINTS, console.say):
        raise StageError(
            f"{artifact.directory}: {damage}, and no checkpoint is left to make it again from; "
            "put it back from a copy, or train anew with --force pretrain"
        )


def _check_previous(previous: PretrainPlan) -> None:
    """Raises StageError if there is no finished phase to go on from."""
    directory, status = previous.artifact.directory, previous.artifact.status()
    if not status.done:
        raise StageError(f"{previous.label}, {directory}, is not ready: {status.reason}")


def _train(
    config: "CfgNode", console: Console, plan: PretrainPlan, place: Placement, start_from: str
) -> str:
    """Starts the ranks and waits for them.

    start_from: folder of the model to start from, or "".
    Returns an empty string at the end of training, or a line on a lack of memory that another
    start may avoid. Raises StageError for other failures.
    """
    output_dir, errors_log = plan.artifact.directory, console.log.with_suffix(".err")
    flags = training_flags(config, plan.upstream.artifact.directory.resolve(), output_dir.resolve())
    flags |= {"device": place.device, "start_from": start_from}
    if plan.previous:
        flags["continue_from"] = plan.previous.artifact.directory.resolve()
        flags["num_positions"] = plan.num_positions
    launcher = launcher_words(config.SYSTEM.HOSTFILE, place.num_ranks)
    command = launch_command(flags, launcher, free_port())
    size_before = errors_log.stat().st_size if errors_log.exists() else 0
    kills = OomKills()
    settings = config.PRETRAIN
    total, unit, scale = progress_unit(
        settings.LR_SCHEDULE,
        settings.NUM_STEPS,
        settings.TOTAL_TRAINING_TIME,
        settings.NUM_TOKENS,
    )
    silence = SilenceReport(errors_log, console.tell, Patience())
    with console.progress("pretraining", total, unit) as progress:

        def on_line(line: str) -> None:
            numbers = parse_progress(line)
            (silence.sign_of_life if numbers else silence.look)()
            if numbers:
                loss = numbers["loss"]
                progress.update(numbers["done"] * scale, "" if loss is None else f"loss {loss:.3f}")
            if note := parse_note(line):
                print_line(f"pretrain: {note}")
            if warning := parse_warning(line):
                print_line(f"pretrain: {WARNING_PREFIX}{warning}")  # the log has the line

        def interrupted(launcher: int) -> list[int]:
            console.say("interrupted: training saves a checkpoint; a second Ctrl-C ends it at once")
            return local_ranks(launcher)

        code = run_logged(
            *(command, console.log, launch_environment(config, place)),
            *(on_line, SILENT_WHILE_ENDING, silence.look),
            workers=interrupted,
        )
    # The launcher exits with 0 when a signal killed it: only the model proves success.
    if not code and (output_dir / MODEL / "config.json").is_file():
        return ""
    failure = Failure(_lines_since(errors_log, size_before), code, kills)
    shortage = failure.shortage(output_dir)
    if not shortage:
        raise StageError(failure.cause, console.log)
    return shortage


def _lines_since(log: Path, size: int) -> list[str]:
    """Returns the lines of a log after its first `size` bytes."""
    with open(log, "rb") as file:
        file.seek(size)
        return file.read().decode("utf-8", errors="replace").splitlines()


def _results(directory: Path) -> dict[str, Any]:
    """Returns the manifest's results: the last figures of metrics.jsonl."""
    lines = read_metrics(directory / METRICS)
    trained = [line for line in lines if line["kind"] == "train"]
    validated = [line for line in lines if line["kind"] == "validation"]
    results: dict[str, Any] = {"model": MODEL, "metrics": METRICS}
    if trained:
        results |= {key: trained[-1][key] for key in ("step", "samples", "tokens")}
        results["train_loss"] = trained[-1]["loss"]
    if validated:
        early = [line["step"] for line in lines if line["kind"] == "stopped_early"]
        results["stopped_early"] = validated[-1]["step"] in early
        results["validation_loss"] = validated[-1]["loss"]
        results["validation_accuracy"] = validated[-1]["accuracy"]
    results["headline"] = [_headline(results)]
    return results


def _headline(results: dict[str, Any]) -> str:
    steps = results.get("step", 0)
    if len(phases := results.get("phases", ())) > 1:
        of_all = sum(phase.get("steps", 0) for phase in phases)
        steps = f"{of_all} steps in {len(phases)} phases, the last of {steps}"
    if "validation_loss" not in results:
        return f"{steps} steps"
    early = ", stopped early" if results["stopped_early"] else ""
    return (
        f"{steps} steps{early}, validation loss {results['validation_loss']:.4f}, "
        f"accuracy {results['validation_accuracy']:.4f}"
    )
