"""The pretraining stage: starts DeepSpeed on this config's dataset and watches over it."""

import os
import re
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from pipeline.console import WARNING_PREFIX, Console, print_line, stage_console
from pipeline.errors import StageError
from pipeline.runtime.oom import OomKills, cause_of_death
from pipeline.runtime.processes import python_command, run_logged
from pipeline.store.artifacts import Artifact
from pipeline.store.paths import log_path
from pipeline.store.record_files import delete_tree
from pretrain.engine.hostfile import is_this_machine, read_hostfile
from pretrain.engine.memory_limits import lower_limit, shortage_in
from pretrain.engine.placement import Placement, place_ranks
from pretrain.engine.ports import free_port
from pretrain.engine.time_limits import SILENT_WHILE_ENDING
from pretrain.engine.watchdog import Patience, SilenceReport
from pretrain.estimate import estimate, precision_in_words
from pretrain.flags import flag_keys
from pretrain.optimization.budget import progress_unit
from pretrain.plan import MODEL, PretrainPlan, plan
from pretrain.training.metrics_file import parse_progress, parse_warning, read_metrics

if TYPE_CHECKING:
    from yacs.config import CfgNode

SCRIPT = Path(__file__).resolve().with_name("run_pretraining.py")
LAUNCHER = "deepspeed.launcher.launch"  # what the runner starts on each server, for its ranks
# The last line of a traceback, with or without the rank that torch puts in front of it, and the
# server that the launcher does.
EXCEPTION = re.compile(
    r"^(?:\S+: )?(?:\[rank\d+\]: )?((?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b.*)"
)
# What the other ranks say when one has died.
AFTERMATH = re.compile(r"connection (closed|reset)|DistBackendError|gloo|NCCL|Broken pipe", re.I)
# How the launcher ends when a rank is killed: with the rank's code, that of one that lost its peer,
# or, if its own launcher was killed, as if nothing had been.
CODES_OF_KILL = (-signal.SIGKILL, 1, 0)


def pretrain(config: "CfgNode") -> None:
    """Pretrains the model of this config, or resumes; does nothing if it is finished.

    Raises StageError if the dataset is missing, if training fails, or if the finished model is
    damaged and no checkpoint is left.
    """
    run(config, plan(config))


def run(config: "CfgNode", plan: PretrainPlan) -> None:
    """Trains the planned model; see `pretrain`."""
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
        artifact.begin()
        delete_tree(artifact.directory / MODEL)  # an old one would be taken for the new one
        console.show_life(artifact.directory)
        for note in estimate(config, plan).notes:
            console.say(note)
        place = place_ranks(config)
        precision = precision_in_words(config, place.on_gpus)
        console.say(f"on {place} in {precision}: {dataset.directory} -> {artifact.directory}")
        _launch(config, console, artifact, dataset, place)
        results = _results(artifact.directory)
        artifact.finish(results)
        console.say(_headline(results))


def _check_dataset(dataset: Artifact) -> None:
    status = dataset.status()
    if not status.done:
        raise StageError(
            f"the dataset {dataset.directory} is not ready ({status.reason}); make it first, "
            f"with --stages dataset and DATASET.ENABLED True"
        )


def _check_checkpoints(artifact: Artifact, console: Console) -> None:
    """StageError if a damaged model could only be made again by days of training."""
    damage = artifact.damage() if artifact.status().state == "unfinished" else ""
    if not damage:
        return
    from pretrain.engine.checkpoints import newest_intact_checkpoint  # with torch, so not always

    if not newest_intact_checkpoint(artifact.directory / "checkpoints", console.say):
        raise StageError(
            f"{artifact.directory}: {damage}, and no checkpoint is left to make it again from; "
            "put it back from a copy, or train anew with --force pretrain"
        )


# --- the command -----------------------------------------------------------------------------


def training_flags(config: "CfgNode", dataset_path: Path, output_dir: Path) -> dict[str, Any]:
    """run_pretraining's flags for this config, by name."""
    flags: dict[str, Any] = {
        "dataset_path": dataset_path,
        "output_dir": output_dir,
        "job_name": f"{output_dir.parent.name}/{output_dir.name}",
        "progress_lines": True,
    }
    for flag, key in flag_keys().items():
        section, _, name = key.partition(".")
        flags[flag] = config[section][name]
    if flags["deepspeed_config"]:
        flags["deepspeed_config"] = Path(flags["deepspeed_config"]).resolve()
    return flags


def launch_command(flags: dict[str, Any], devices: Sequence[str], port: int) -> list[str]:
    """The deepspeed launcher's command line; devices: its options that say where it runs."""
    return python_command(
        *("-m", "deepspeed.launcher.runner", "--log_level", "warning"),
        *devices,
        *("--master_port", str(port)),
        str(SCRIPT),
        *flag_words(flags),
    )


def flag_words(flags: dict[str, Any]) -> list[str]:
    """Flags by name as run_pretraining's command line takes them."""
    words = []
    for name, value in flags.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, list):
            words.append(f"--{name}={','.join(map(str, value))}")
        else:
            words.append(f"--{name}={value}")
    return words


def launcher_devices(hostfile: str, num_ranks: int) -> tuple[str, ...]:
    """Where the launcher starts ranks: on the servers of a hostfile, or so many on this machine.

    Of the GPUs here it knows no more than their number: it takes neither UUIDs nor MIG's names, and
    sorts the others. The ranks have their names from the flag `device`. Without a hostfile it would
    take /job/hostfile, and start as many ranks on each server in it.
    """
    if hostfile and not is_this_machine(read_hostfile(Path(hostfile))):
        # A single server that is not this machine would else be taken for it.
        return "--hostfile", str(Path(hostfile).resolve()), "--force_multi"
    return "--hostfile", os.devnull, "--num_gpus", str(max(1, num_ranks))


def _environment(config: "CfgNode", place: Placement) -> dict[str, str]:
    """What the launcher and the ranks need to know besides their flags. Secrets travel here and
    nowhere else.

    DS_ACCELERATOR is the launcher's; the ranks get theirs from the flag `device`. Here it has no
    business with GPUs, and would end without a good word where it finds none. To other servers it
    passes NCCL's variables on, if it is told of GPUs.
    """
    environment = {"PYTHONUNBUFFERED": "1"}
    if place.servers and place.on_gpus:
        environment["DS_ACCELERATOR"] = "cuda"
    else:
        environment |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    if config.WANDB.MODE != "disabled" and config.WANDB.API_KEY:
        environment["WANDB_API_KEY"] = config.WANDB.API_KEY
    return environment


# --- watching it -----------------------------------------------------------------------------


def _launch(
    config: "CfgNode", console: Console, artifact: Artifact, dataset: Artifact, place: Placement
) -> None:
    """Trains to the end; where memory runs out, once more with half the micro batch."""
    while shortage := _train(config, console, artifact, dataset, place):
        console.say(f"{shortage}; training goes on from the newest checkpoint")


def _train(
    config: "CfgNode", console: Console, artifact: Artifact, dataset: Artifact, place: Placement
) -> str:
    """Starts the ranks and waits for them. Returns words on a lack of memory that another start
    may not meet, or nothing when all is done."""
    flags = training_flags(config, dataset.directory.resolve(), artifact.directory.resolve())
    devices = launcher_devices(config.SYSTEM.HOSTFILE, place.num_ranks)
    command = launch_command({**flags, "device": place.device}, devices, free_port())
    errors_before, kills = _size(console.log.with_suffix(".err")), OomKills()
    settings = config.PRETRAIN
    total, unit, scale = progress_unit(
        settings.LR_SCHEDULE,
        settings.NUM_STEPS,
        settings.TOTAL_TRAINING_TIME,
        settings.NUM_TOKENS,
    )
    silence = SilenceReport(console.log.with_suffix(".err"), console.tell, Patience())
    with console.progress("pretraining", total, unit) as progress:

        def on_line(line: str) -> None:
            numbers = parse_progress(line)
            (silence.sign_of_life if numbers else silence.look)()
            if numbers:
                loss = numbers["loss"]
                progress.update(numbers["done"] * scale, "" if loss is None else f"loss {loss:.3f}")
            if warning := parse_warning(line):
                print_line(f"pretrain: {WARNING_PREFIX}{warning}")  # the log has the line

        def interrupted(runner: int) -> list[int]:
            console.say("interrupted: training saves a checkpoint; a second Ctrl-C ends it at once")
            return ranks_here(runner)

        code = run_logged(
            *(command, console.log, _environment(config, place)),
            *(on_line, SILENT_WHILE_ENDING, silence.look),
            workers=interrupted,
        )
    # The launcher answers 0 when a signal killed it, so the model itself is looked for.
    if not code and (artifact.directory / MODEL / "config.json").is_file():
        return ""
    errors = _lines_since(console.log.with_suffix(".err"), errors_before)
    shortage = shortage_in(errors) or _killed_for_memory(errors, code, kills, artifact.directory)
    if not shortage:
        raise StageError(_cause(errors, code, kills), console.log)
    return shortage


def ranks_here(runner: int) -> list[int]:
    """The ranks that DeepSpeed's runner has had started, none where they are on several servers.

    Asked to end by themselves, they may take their time to save: the launcher, when it is asked,
    kills each after 30 s.
    """
    with suppress(psutil.Error):
        children = psutil.Process(runner).children()
        launchers = [child for child in children if LAUNCHER in child.cmdline()]
        return [rank.pid for launcher in launchers for rank in launcher.children()]
    return []


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _lines_since(log: Path, size: int) -> list[str]:
    """The lines that were written to a log after it had so many bytes."""
    with open(log, "rb") as file:
        file.seek(size)
        return file.read().decode("utf-8", errors="replace").splitlines()


def _killed_for_memory(errors: list[str], code: int, kills: OomKills, directory: Path) -> str:
    """Of ranks that the kernel has killed, and that may need less; else nothing.

    Only if the kernel's own count says so: others have reasons to kill a rank, too.
    """
    if kills.happened and _looks_killed(errors, code) and (comes_next := lower_limit(directory)):
        return f"a training process {cause_of_death(-signal.SIGKILL, kills)}; {comes_next}"
    return ""


def _looks_killed(errors: list[str], code: int) -> bool:
    """Whether a rank may have been killed, by the code and as none says what else was wrong."""
    told = _own_exceptions(errors) or _refusals(errors)
    return not told and _exit_code_of_rank(code) in CODES_OF_KILL


def _cause(errors: list[str], code: int, kills: OomKills) -> str:
    """The last exception in the error log, or else how the ranks ended."""
    if found := _own_exceptions(errors) or _refusals(errors):
        return found[-1]
    was_killed = kills.happened and _looks_killed(errors, code)
    code = -signal.SIGKILL if was_killed else _exit_code_of_rank(code)
    ended = f"a training process {cause_of_death(code, kills)}"
    if code < 0:
        return ended
    return (_exceptions(errors) or [f"{ended}, without saying why"])[-1]


def _refusals(errors: list[str]) -> list[str]:
    """What a rank says without a traceback, of its flags, say."""
    return [line for line in errors if ": error: " in line]


def _exceptions(errors: list[str]) -> list[str]:
    return [found.group(1) for found in map(EXCEPTION.match, errors) if found]


def _own_exceptions(errors: list[str]) -> list[str]:
    """Those that do not just follow from the end of another rank."""
    return [line for line in _exceptions(errors) if not AFTERMATH.search(line)]


def _exit_code_of_rank(code: int) -> int:
    """As of `subprocess`: negative for the signal that a rank died of.

    The launcher passes such a code on, of which its own exit keeps the lowest byte; a shell, and a
    rank that has saved before it ended, answer 128 more than the signal.
    """
    if 128 < code < 128 + signal.NSIG:
        return 128 - code
    return code - 256 if code > 256 - signal.NSIG else code


# --- what came of it -------------------------------------------------------------------------


def _results(directory: Path) -> dict[str, Any]:
    """The last figures of metrics.jsonl, for the manifest."""
    lines = read_metrics(directory / "metrics.jsonl")
    trained = [line for line in lines if line["kind"] == "train"]
    validated = [line for line in lines if line["kind"] == "validation"]
    results = {"model": MODEL, "metrics": "metrics.jsonl"}
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
    if "validation_loss" not in results:
        return f"{steps} steps"
    early = ", stopped early" if results["stopped_early"] else ""
    return (
        f"{steps} steps{early}, validation loss {results['validation_loss']:.4f}, "
        f"accuracy {results['validation_accuracy']:.4f}"
    )
