"""What pretraining makes, and out of what; reads nothing but the dataset's plan."""

import importlib.util
import os
import re
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dataset.plan import dataset_artifact
from pipeline.console import duration
from pipeline.errors import ConfigError
from pipeline.runtime.devices import lacks_driver
from pipeline.store.artifacts import Artifact, fingerprint
from pipeline.store.checksums import file_digest
from pipeline.store.disk import DiskNeed
from pipeline.store.paths import pretrain_dir
from pretrain.engine.deepspeed_config import conflicts, read_user_config
from pretrain.engine.hostfile import is_this_machine, read_hostfile
from pretrain.engine.placement import Placement, expects_gpus, place_ranks
from pretrain.flags import flag_keys
from pretrain.model.model_types import OWN_TYPE, check_model_type
from pretrain.optimization.batch_sizes import BatchSizes

FORMAT = 2
NUM_SEGMENTS = 2
MODEL = "model"  # the folder of the export
CARD, CURVE = "README.md", "loss_curve.png"  # for people, who are free to change them
PLAIN_WORDS = re.compile(r"[\w@+=:,./ -]*")
# Keys that do not change the trained weights: names, logging, checkpoints and what is measured on
# the way, how the work is shared out, and when a run that goes wrong gives up. The micro batch is
# one of them, as the number of GPUs is: the loss is the mean over the whole batch however it is cut
# up, so that only rounding and the dropout's draws differ, and a run that ran out of memory can go
# on from its checkpoint with a smaller one. Where a validation may stop the run, it counts.
VALIDATION = {
    "VALIDATION_STEPS",
    "VALIDATION_EPOCHS",
    "VALIDATION_EPOCHS_BEGIN",
    "VALIDATION_EPOCHS_END",
    "VALIDATION_BEGIN_PROPORTION",
    "VALIDATION_END_PROPORTION",
    "VALIDATION_SAMPLES",
}
OUTSIDE_IDENTITY = VALIDATION | {
    "ENABLED",
    "ID",
    "PRINT_STEPS",
    "TENSORBOARD",
    "CHECKPOINT_STEPS",
    "CHECKPOINT_MINUTES",
    "NUM_EPOCHS_BETWEEN_CHECKPOINTS",
    "KEEP_CHECKPOINTS",
    "FINETUNE_TIME_MARKERS",
    "DO_VALIDATION",
    "VALIDATION_MICRO_BATCH",
    "MICRO_BATCH_SIZE",
    "ZERO_STAGE",
    "GRADIENT_CHECKPOINTING",
    "COMPILE",
    "SCALE_CNT_LIMIT",
    "DIVERGENCE_LIMIT",
}
# Keys of MODEL that are younger than FORMAT, and say nothing of a model without windows.
WINDOWS = {"ATTENTION_WINDOW", "GLOBAL_ATTENTION_EVERY"}
# Numbers that an optimizer keeps for a weight, if not two; muon, for those of the layers.
STATE_SIZES = {"sgd": 0, "sgd-momentum": 1, "adafactor": 0, "muon": 1}
SHARED_LAYERS = "albert"  # whose layers are all the same one
# The key that says how long a run is, for each LR_SCHEDULE; the others are not looked at.
BUDGETS = {"step": "NUM_STEPS", "time": "TOTAL_TRAINING_TIME", "tokens": "NUM_TOKENS"}


def precision_in_words(config, on_gpus: bool) -> str:
    """What "auto" stands for (pretrain.engine.precision), as far as one knows without a look at
    torch."""
    if config.PRETRAIN.PRECISION != "auto":
        return config.PRETRAIN.PRECISION
    if on_gpus:
        return "fp16"
    ours = config.MODEL.TYPE == OWN_TYPE and config.PRETRAIN.ZERO_STAGE <= 0
    return "bf16 where this processor is built for it, else fp32" if ours else "fp32"


def check_machine(config) -> None:
    """Raises ConfigError for what would stop the run on this machine as soon as it begins."""
    place = place_ranks(config)
    ranks = place.num_ranks
    smallest = config.PRETRAIN.BATCH_SIZE_RAMP_START or config.PRETRAIN.BATCH_SIZE
    problems = []
    if smallest % ranks:
        key = "BATCH_SIZE_RAMP_START" if config.PRETRAIN.BATCH_SIZE_RAMP_START else "BATCH_SIZE"
        problems.append(
            f"PRETRAIN.{key}: cannot be shared out, got {smallest}, expected a multiple of "
            f"the {ranks} {'GPUs' if place.on_gpus else 'processes'}"
        )
    problems += _precision_problems(config, place)
    problems += _type_problems(config)
    problems += _deepspeed_problems(config.PRETRAIN.DEEPSPEED_CONFIG)
    problems += _logging_problems(config)
    problems += _shell_problems(config)
    if problems:
        raise ConfigError(problems)


def _precision_problems(config, place: Placement) -> Iterator[str]:
    emulating = [gpu.name for gpu in place.gpus if not gpu.computes_in_bf16]
    if config.PRETRAIN.PRECISION == "bf16" and emulating:
        yield (
            f"PRETRAIN.PRECISION: {emulating[0]} only emulates bf16, got bf16, expected fp16 "
            "(as auto takes)"
        )


def _shell_problems(config) -> Iterator[str]:
    """Values that are more than words: DeepSpeed hands them to a shell on the other servers."""
    hostfile = config.SYSTEM.HOSTFILE
    if not hostfile or is_this_machine(read_hostfile(Path(hostfile))):
        return
    for key in ("SYSTEM.OUTPUT_ROOT", *flag_keys().values()):
        section, _, name = key.partition(".")
        value = config[section][name]
        if isinstance(value, str) and not PLAIN_WORDS.fullmatch(value):
            yield (
                f"{key}: a shell of the servers in SYSTEM.HOSTFILE would read it, got {value!r}, "
                "expected letters, digits, spaces and any of @ + = : , . / _ -"
            )


def _type_problems(config) -> Iterator[str]:
    """What speaks against MODEL.TYPE; an architecture of transformers is built, without weights."""
    model = config.MODEL
    if model.TYPE == OWN_TYPE:
        return
    try:
        check_model_type(model.TYPE)
        from pretrain.model.transformers_model import check_config

        settings = {key.lower(): model[key] for key in model}
        check_config(
            Namespace(
                **settings,
                model_type=model.TYPE,
                max_seq_length=config.DATASET.MAX_SEQ_LENGTH,
                gradient_checkpointing=config.PRETRAIN.GRADIENT_CHECKPOINTING,
                vocab_size=config.TOKENIZER.VOCAB_SIZE,
                special_ids={"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
            )
        )
    except ValueError as error:
        flag, _, problem = str(error).partition(": ")
        yield f"{flag_keys()[flag]}: {problem}"


def _deepspeed_problems(path: str) -> Iterator[str]:
    """What is wrong with a user's DeepSpeed JSON."""
    if not path:
        return
    try:
        user = read_user_config(Path(path))
    except ValueError as error:
        yield f"PRETRAIN.DEEPSPEED_CONFIG: {error}"
        return
    keys = flag_keys()
    for setting, flag in conflicts(user):
        yield (
            f"PRETRAIN.DEEPSPEED_CONFIG: {path} sets {setting}, which {keys[flag]} decides; "
            "take it out of the JSON"
        )


def _logging_problems(config) -> Iterator[str]:
    mode = config.WANDB.MODE
    if mode != "disabled" and importlib.util.find_spec("wandb") is None:
        yield (
            f"WANDB.MODE: wandb is not installed, got {mode}; "
            f"run {sys.executable} -m pip install -r requirements-wandb.txt"
        )
    if mode == "online" and not (config.WANDB.API_KEY or os.environ.get("WANDB_API_KEY")):
        yield "WANDB.MODE: no key, got online, expected WANDB_API_KEY in the environment"
    if config.PRETRAIN.TENSORBOARD and importlib.util.find_spec("tensorboard") is None:
        yield (
            "PRETRAIN.TENSORBOARD: tensorboard is not installed, got True; "
            f"run {sys.executable} -m pip install -r requirements-tensorboard.txt"
        )


def pretrain_artifact(config) -> Artifact:
    """The pretraining run of this config: weights, metrics and checkpoints."""
    dataset = dataset_artifact(config)
    without = () if config.MODEL.ATTENTION_WINDOW else WINDOWS
    inputs = {f"MODEL.{key}": config.MODEL[key] for key in config.MODEL if key not in without}
    settings = config.PRETRAIN
    ignored = OUTSIDE_IDENTITY | set(BUDGETS.values()) - {BUDGETS[settings.LR_SCHEDULE]}
    if not settings.ALLOW_TF32:  # a run of before this key is one without
        ignored |= {"ALLOW_TF32"}
    if settings.USE_EARLY_STOPPING:
        ignored -= VALIDATION
    else:
        ignored |= {"EARLY_STOP_TIME", "EARLY_STOP_EVAL_LOSS"}
    inputs |= {
        f"PRETRAIN.{key}": config.PRETRAIN[key] for key in config.PRETRAIN if key not in ignored
    }
    if config.PRETRAIN.DEEPSPEED_CONFIG:  # its content counts, not its name
        inputs["PRETRAIN.DEEPSPEED_CONFIG"] = _digest(Path(config.PRETRAIN.DEEPSPEED_CONFIG))
    inputs |= {"dataset": dataset.fingerprint, "format": FORMAT}
    pretrain_id = config.PRETRAIN.ID or _generated_id(config, inputs)
    directory = pretrain_dir(Path(config.SYSTEM.OUTPUT_ROOT), dataset.directory.name, pretrain_id)
    return Artifact(
        stage="pretrain",
        directory=directory,
        inputs=inputs,
        user_named="PRETRAIN.ID" if config.PRETRAIN.ID else "",
        made_from="dataset",
        notes=_notes(config, dataset),
        disk=(_disk_need(config, dataset, directory),),
        files_in=lambda results: _files_of_model(directory),
    )


def _files_of_model(directory: Path) -> Iterator[str]:
    names = {"config.json", *(path.name for path in (directory / MODEL).glob("*"))}
    return (f"{MODEL}/{name}" for name in sorted(names - {CARD, CURVE}))


def model_bytes(config, vocab_size: int) -> int:
    """Of an exported model, whose weights are fp32; an estimate for those of transformers."""
    model = dict(config.MODEL)
    if config.MODEL.TYPE == SHARED_LAYERS:
        model["NUM_HIDDEN_LAYERS"] = 1
    return 4 * num_parameters(model, vocab_size, config.DATASET.MAX_SEQ_LENGTH)


def _vocab_size(dataset: Artifact) -> int:
    """0: the dataset is not there to tell."""
    manifest = dataset.manifest if dataset.status().done else None
    return manifest["results"]["vocab_size"] if manifest else 0


def _disk_need(config, dataset: Artifact, directory: Path) -> DiskNeed:
    """The checkpoints that are kept, the one that is being written, and the models."""
    settings = config.PRETRAIN
    model = model_bytes(config, _vocab_size(dataset) or config.TOKENIZER.VOCAB_SIZE)
    num_checkpoints = settings.KEEP_CHECKPOINTS + 1
    if settings.LR_SCHEDULE == "step" and settings.CHECKPOINT_STEPS:
        made = settings.NUM_STEPS // settings.CHECKPOINT_STEPS + 1
        num_checkpoints = min(num_checkpoints, made)
    num_bytes = num_checkpoints * model * (1 + STATE_SIZES.get(settings.OPTIMIZER, 2))
    num_bytes += model * (1 + len(settings.FINETUNE_TIME_MARKERS))
    what = "checkpoints and models of pretraining"
    return DiskNeed(directory, num_bytes, what, "PRETRAIN.KEEP_CHECKPOINTS")


def last_checkpoint(artifact: Artifact) -> Iterator[str]:
    """A line on the newest checkpoint of a run, if it has one."""
    for path in sorted((artifact.directory / "checkpoints").glob("step_*"))[-1:]:
        with suppress(FileNotFoundError):  # the run may be deleting it
            age = max(0.0, time.time() - path.stat().st_mtime)
            yield f"last checkpoint {path.name}, {duration(age)} ago"


def _digest(path: Path) -> str:
    return file_digest(path) if path.is_file() else "missing"


def length_of_run(pretrain) -> str:
    """`23000 steps`, `24 h` or `1000000 tokens`."""
    amount = pretrain[BUDGETS[pretrain.LR_SCHEDULE]]
    unit = {"step": "steps", "time": "h", "tokens": "tokens"}[pretrain.LR_SCHEDULE]
    return f"{amount:g} {unit}" if unit == "h" else f"{amount} {unit}"


def _generated_id(config, inputs: dict[str, Any]) -> str:
    """e.g. `bert-mlm-24x1024-23000steps-0123456789`."""
    model = config.MODEL
    return (
        f"{model.TYPE}-{model.NUM_HIDDEN_LAYERS}x{model.HIDDEN_SIZE}-"
        f"{length_of_run(config.PRETRAIN).replace(' ', '')}-{fingerprint(inputs)[:10]}"
    )


def _notes(config, dataset: Artifact) -> tuple[str, ...]:
    """Steps, epochs where the dataset is there to tell, and the model's size."""
    # Without a look at torch: this may be just a look at what another machine has made.
    on_gpus = expects_gpus(config)
    precision = precision_in_words(config, on_gpus)
    batch = config.PRETRAIN.BATCH_SIZE
    effort = f"{length_of_run(config.PRETRAIN)}, {batch} samples a step, in {precision}"
    if on_gpus and not config.PRETRAIN.MICRO_BATCH_SIZE:
        effort += ", micro batches found by trial"
    manifest = dataset.manifest if dataset.status().done else None
    if manifest and config.PRETRAIN.LR_SCHEDULE == "step":
        results = manifest["results"]
        epochs = num_samples(config.PRETRAIN) / max(1, sum(results["train_shards"].values()))
        what = "all mask copies" if results["masking"] == "static" else "the text"
        effort += f", {epochs:.2f} passes over {what}"
    notes = [effort]
    if config.SYSTEM.NUM_GPUS and not expects_gpus(config) and lacks_driver():
        notes.append("on the CPU: the driver of this machine's NVIDIA GPU is not loaded")
    if config.MODEL.TYPE == OWN_TYPE:  # the others are counted by building them alone
        notes.append(_size_note(config, _vocab_size(dataset)))
    return tuple(notes)


def num_samples(pretrain) -> int:
    """Samples of a run of NUM_STEPS steps."""
    ramp = (pretrain.BATCH_SIZE_RAMP_START, pretrain.BATCH_SIZE_RAMP_STEPS)
    return BatchSizes(pretrain.BATCH_SIZE, *ramp).samples_before(pretrain.NUM_STEPS)


def _size_note(config, vocab_size: int) -> str:
    model = config.MODEL
    count = num_parameters(
        model, vocab_size or config.TOKENIZER.VOCAB_SIZE, config.DATASET.MAX_SEQ_LENGTH
    )
    guess = "" if vocab_size else f", if the tokenizer has {config.TOKENIZER.VOCAB_SIZE} entries"
    # Weights, gradients and the two moments of Adam, in fp32.
    return f"{count:,} parameters, {count * 16 / 1e9:.2f} GB with optimizer state{guess}"


def num_parameters(model: Mapping[str, Any], vocab_size: int, max_seq_length: int) -> int:
    """Number of trained weights of BasePretrainModel, without the padding of its vocabulary.

    model: the keys of MODEL.
    """
    width, inner = model["HIDDEN_SIZE"], model["INTERMEDIATE_SIZE"]
    bias, pre_ln = int(model["USE_BIAS"]), model["ENCODER_LN_MODE"] == "pre-ln"
    rotary = model["POSITION_EMBEDDING_TYPE"] == "rotary"
    norm = width * (1 + (bias if model["NORM_TYPE"] == "layernorm" else 0))

    def linear(num_inputs: int, num_outputs: int) -> int:
        return num_outputs * (num_inputs + bias)

    feed_forward = linear(width, inner * (2 if model["GLU"] else 1)) + linear(inner, width)
    layer = linear(width, 3 * width) + linear(width, width) + feed_forward + 2 * norm
    positions = 0 if rotary else (max_seq_length + NUM_SEGMENTS) * width
    num_norms = int(model["EMBEDDING_NORM"]) + int(pre_ln)
    if rotary and pre_ln and model["EMBEDDING_NORM"]:
        num_norms -= 1  # the first layer has no attention norm
    head = linear(width, width) + norm + vocab_size
    layers = model["NUM_HIDDEN_LAYERS"] * layer
    return vocab_size * width + positions + layers + num_norms * norm + head
