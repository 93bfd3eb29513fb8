"""The pretraining stage: starts DeepSpeed on this config's dataset and watches over it."""

import re
from pathlib import Path
from typing import Any

from dataset.artifact import dataset_artifact
from pipeline.artifacts import Artifact, log_path
from pipeline.console import Console, Progress, print_line, stage_console
from pipeline.devices import num_gpus, visible_gpu_names
from pipeline.errors import StageError
from pipeline.processes import python_command, run_logged
from pretrain.artifact import precision_in_use, pretrain_artifact
from pretrain.metrics import parse_progress, read_metrics
from pretrain.ports import free_port

PROJECT = Path(__file__).resolve().parents[1]
# The last line of a traceback, with or without the rank that torch puts in front of it.
EXCEPTION = re.compile(r"^(?:\[rank\d+\]: )?((?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b.*)")


def pretrain(config) -> None:
    """Pretrains the model of this config, or goes on where it was; does nothing if it is done.

    Raises StageError if the dataset is not there or training fails.
    """
    artifact = pretrain_artifact(config)
    dataset = dataset_artifact(config)
    log = log_path(
        Path(config.SYSTEM.OUTPUT_ROOT), "pretrain", dataset.directory.name, artifact.directory.name
    )
    if artifact.status().done:
        print_line(f"pretrain: up to date ({artifact.directory})")
        return
    with stage_console("pretrain", log) as console:
        _check_dataset(dataset)
        artifact.begin()
        gpus = num_gpus(config.SYSTEM.NUM_GPUS)
        _announce(config, console, artifact, dataset, gpus)
        _launch(config, console, artifact, dataset, gpus)
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


def _announce(config, console: Console, artifact: Artifact, dataset: Artifact, gpus: int) -> None:
    for note in artifact.notes:
        console.say(note)
    precision = precision_in_use(config.PRETRAIN.PRECISION, gpus)
    where = f"{gpus} GPU(s)" if gpus else "the CPU"
    console.say(f"on {where} in {precision}: {dataset.directory} -> {artifact.directory}")


# --- the command -----------------------------------------------------------------------------


def training_flags(config, dataset_path: Path, output_dir: Path, gpus: int) -> dict[str, Any]:
    """run_pretraining's flags for this config, by name; True stands for a switch."""
    model, settings = config.MODEL, config.PRETRAIN
    precision = precision_in_use(settings.PRECISION, gpus)
    flags = {
        "dataset_path": dataset_path,
        "output_dir": output_dir,
        "model_type": model.TYPE,
        "encoder_ln_mode": model.ENCODER_LN_MODE,
        "hidden_size": model.HIDDEN_SIZE,
        "num_hidden_layers": model.NUM_HIDDEN_LAYERS,
        "num_attention_heads": model.NUM_ATTENTION_HEADS,
        "intermediate_size": model.INTERMEDIATE_SIZE,
        "hidden_act": model.HIDDEN_ACT,
        "hidden_dropout_prob": model.HIDDEN_DROPOUT_PROB,
        "attention_probs_dropout_prob": model.ATTENTION_PROBS_DROPOUT_PROB,
        "initializer_range": model.INITIALIZER_RANGE,
        "layer_norm_eps": model.LAYER_NORM_EPS,
        "max_steps": settings.NUM_STEPS,
        "train_batch_size": settings.BATCH_SIZE,
        "train_micro_batch_size_per_gpu": settings.MICRO_BATCH_SIZE,
        "lr": settings.LEARNING_RATE,
        "warmup_proportion": settings.WARMUP_PROPORTION,
        "curve": settings.LR_CURVE,
        "esd_r": settings.ESD_R,
        "esd_l": settings.ESD_L,
        "optimizer_type": settings.OPTIMIZER,
        "adam_beta1": settings.ADAM_BETA1,
        "adam_beta2": settings.ADAM_BETA2,
        "adam_eps": settings.ADAM_EPS,
        "momentum": settings.MOMENTUM,
        "weight_decay": settings.WEIGHT_DECAY,
        "gradient_clipping": settings.GRADIENT_CLIPPING,
        "seed": settings.SEED,
        "print_steps": settings.PRINT_STEPS,
        "checkpoint_steps": settings.CHECKPOINT_STEPS,
        "keep_checkpoints": settings.KEEP_CHECKPOINTS,
        "do_validation": True,
        "validation_steps": settings.VALIDATION_STEPS,
        "validation_micro_batch": settings.VALIDATION_MICRO_BATCH,
        "validation_samples": settings.VALIDATION_SAMPLES,
        "wandb_mode": config.WANDB.MODE,
        "project_name": config.WANDB.PROJECT,
        "job_name": f"{output_dir.parent.name}/{output_dir.name}",
    }
    return flags | ({} if precision == "fp32" else {precision: True})


def launch_command(flags: dict[str, Any], gpus: int, port: int) -> list[str]:
    """The deepspeed launcher's command line; without GPUs, one rank on the CPU."""
    arguments = []
    for name, value in flags.items():
        arguments += [f"--{name}"] if value is True else [f"--{name}={value}"]
    return python_command(
        *("-m", "deepspeed.launcher.runner", "--log_level", "warning"),
        *_devices(gpus),
        *("--master_port", str(port)),
        str(PROJECT / "pretrain" / "run_pretraining.py"),
        *arguments,
    )


def _devices(gpus: int) -> tuple[str, str]:
    """Which GPUs the launcher takes; told a number, it would ignore CUDA_VISIBLE_DEVICES."""
    visible = visible_gpu_names()
    if gpus and visible is not None and all(name.isdigit() for name in visible):
        return "--include", f"localhost:{','.join(visible[:gpus])}"
    return "--num_gpus", str(max(1, gpus))


def _environment(config, gpus: int) -> dict[str, str]:
    """What the ranks need to know besides their flags. Secrets travel here and nowhere else."""
    environment = {"PYTHONUNBUFFERED": "1"}
    if not gpus:
        environment["DS_ACCELERATOR"] = "cpu"
        environment["CUDA_VISIBLE_DEVICES"] = ""
        # Threads that spin while they wait are no faster here, and halve the speed, or worse,
        # as soon as another program wants a core.
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
    if config.WANDB.MODE != "disabled" and config.WANDB.API_KEY:
        environment["WANDB_API_KEY"] = config.WANDB.API_KEY
    return environment


# --- watching it -----------------------------------------------------------------------------


def _launch(config, console: Console, artifact: Artifact, dataset: Artifact, gpus: int) -> None:
    flags = training_flags(config, dataset.directory.resolve(), artifact.directory.resolve(), gpus)
    command = launch_command(flags, gpus, free_port())
    errors_before = _size(console.log.with_suffix(".err"))
    with console.progress("pretraining", config.PRETRAIN.NUM_STEPS, "steps") as progress:

        def on_line(line: str) -> None:
            numbers = parse_progress(line)
            if numbers:
                _show(progress, numbers)

        code = run_logged(command, console.log, _environment(config, gpus), on_line)
    # The launcher answers 0 when a signal killed it, so the model itself is looked for.
    if code or not (artifact.directory / "model" / "config.json").is_file():
        raise StageError(_cause(console.log, errors_before, code), console.log)


def _show(progress: Progress, numbers: dict[str, Any]) -> None:
    loss = numbers["loss"]
    progress.update(numbers["step"], "" if loss is None else f"loss {loss:.3f}")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _cause(log: Path, errors_before: int, code: int) -> str:
    """The last exception that this run wrote to the error log, or else the exit code."""
    with open(log.with_suffix(".err"), "rb") as file:
        file.seek(errors_before)
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    exceptions = [found.group(1) for found in map(EXCEPTION.match, lines) if found]
    refused = [line for line in lines if ": error: " in line]  # flags that argparse refused
    ended = f"the training processes ended with exit code {code}, without saying why"
    return next(iter((exceptions or refused)[-1:]), ended)


# --- what came of it -------------------------------------------------------------------------


def _results(directory: Path) -> dict[str, Any]:
    """The last figures of metrics.jsonl, for the manifest."""
    lines = read_metrics(directory / "metrics.jsonl")
    trained = [line for line in lines if line["kind"] == "train"]
    validated = [line for line in lines if line["kind"] == "validation"]
    results = {"model": "model", "metrics": "metrics.jsonl"}
    if trained:
        results |= {key: trained[-1][key] for key in ("step", "samples", "tokens")}
        results["train_loss"] = trained[-1]["loss"]
    if validated:
        results["validation_loss"] = validated[-1]["loss"]
        results["validation_accuracy"] = validated[-1]["accuracy"]
    results["headline"] = [_headline(results)]
    return results


def _headline(results: dict[str, Any]) -> str:
    steps = results.get("step", 0)
    if "validation_loss" not in results:
        return f"{steps} steps"
    return (
        f"{steps} steps, validation loss {results['validation_loss']:.4f}, "
        f"accuracy {results['validation_accuracy']:.4f}"
    )
