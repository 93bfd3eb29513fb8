"""What pretraining makes, and out of what; reads nothing but the dataset's plan."""

import importlib.util
import os
from pathlib import Path
from typing import Any

from dataset.artifact import dataset_artifact
from pipeline.artifacts import Artifact, fingerprint, pretrain_dir
from pipeline.devices import num_gpus, num_visible_gpus
from pipeline.errors import ConfigError

FORMAT = 1
# Keys that do not change the trained weights: names, logging, checkpoints and what is measured on
# the way. The micro batch is one of them, as the number of GPUs is: the loss is the mean over the
# whole batch however it is cut up, so that only rounding and the dropout's draws differ, and a run
# that ran out of memory can go on from its checkpoint with a smaller one.
OUTSIDE_IDENTITY = {
    "ENABLED",
    "ID",
    "PRINT_STEPS",
    "CHECKPOINT_STEPS",
    "KEEP_CHECKPOINTS",
    "VALIDATION_STEPS",
    "VALIDATION_MICRO_BATCH",
    "VALIDATION_SAMPLES",
    "MICRO_BATCH_SIZE",
}


def precision_in_use(precision: str, gpus: int) -> str:
    """What "auto" stands for: fp16 on GPUs; fp32 on the CPU, where it is the fastest."""
    if precision != "auto":
        return precision
    return "fp16" if gpus else "fp32"


def check_machine(config) -> None:
    """Raises ConfigError for what would stop the run on this machine as soon as it begins."""
    gpus, batch_size = num_gpus(config.SYSTEM.NUM_GPUS), config.PRETRAIN.BATCH_SIZE
    problems = []
    if batch_size % max(1, gpus):
        problems.append(
            f"PRETRAIN.BATCH_SIZE: cannot be shared out, got {batch_size}, expected a multiple of "
            f"the {gpus} GPUs"
        )
    mode = config.WANDB.MODE
    if mode != "disabled" and importlib.util.find_spec("wandb") is None:
        problems.append(
            f"WANDB.MODE: wandb is not installed, got {mode}; "
            "run pip install -r requirements-wandb.txt"
        )
    if mode == "online" and not (config.WANDB.API_KEY or os.environ.get("WANDB_API_KEY")):
        problems.append("WANDB.MODE: no key, got online, expected WANDB_API_KEY in the environment")
    if problems:
        raise ConfigError(problems)


def pretrain_artifact(config) -> Artifact:
    """The pretraining run of this config: weights, metrics and checkpoints."""
    dataset = dataset_artifact(config)
    inputs = {f"MODEL.{key}": config.MODEL[key] for key in config.MODEL}
    inputs |= {
        f"PRETRAIN.{key}": config.PRETRAIN[key]
        for key in config.PRETRAIN
        if key not in OUTSIDE_IDENTITY
    }
    inputs |= {"dataset": dataset.fingerprint, "format": FORMAT}
    pretrain_id = config.PRETRAIN.ID or _generated_id(config, inputs)
    return Artifact(
        stage="pretrain",
        directory=pretrain_dir(
            Path(config.SYSTEM.OUTPUT_ROOT), dataset.directory.name, pretrain_id
        ),
        inputs=inputs,
        user_named="PRETRAIN.ID" if config.PRETRAIN.ID else "",
        notes=_notes(config, dataset),
    )


def _generated_id(config, inputs: dict[str, Any]) -> str:
    """e.g. `bert-mlm-24x1024-23000steps-0123456789`."""
    model = config.MODEL
    return (
        f"{model.TYPE}-{model.NUM_HIDDEN_LAYERS}x{model.HIDDEN_SIZE}-"
        f"{config.PRETRAIN.NUM_STEPS}steps-{fingerprint(inputs)[:10]}"
    )


def _notes(config, dataset: Artifact) -> tuple[str, ...]:
    """Steps, epochs where the dataset is there to tell, and the model's size."""
    steps, batch = config.PRETRAIN.NUM_STEPS, config.PRETRAIN.BATCH_SIZE
    # Not an error here if there are fewer GPUs than asked for: this may be just a look at what
    # another machine has made.
    gpus = num_visible_gpus() if config.SYSTEM.NUM_GPUS else 0
    precision = precision_in_use(config.PRETRAIN.PRECISION, gpus)
    effort = f"{steps} steps of {batch} samples in {precision}"
    manifest = dataset.manifest if dataset.status().done else None
    if manifest:
        results = manifest["results"]
        epochs = steps * batch / max(1, sum(results["train_shards"].values()))
        what = "all mask copies" if results["masking"] == "static" else "the text"
        effort += f", {epochs:.2f} passes over {what}"
    vocab_size = manifest["results"]["vocab_size"] if manifest else 0
    return (effort, _size_note(config, vocab_size))


def _size_note(config, vocab_size: int) -> str:
    count = num_parameters(
        vocab_size or config.TOKENIZER.VOCAB_SIZE,
        config.DATASET.MAX_SEQ_LENGTH,
        config.MODEL.HIDDEN_SIZE,
        config.MODEL.NUM_HIDDEN_LAYERS,
        config.MODEL.INTERMEDIATE_SIZE,
        config.MODEL.ENCODER_LN_MODE == "pre-ln",
    )
    guess = "" if vocab_size else f", if the tokenizer has {config.TOKENIZER.VOCAB_SIZE} entries"
    # Weights, gradients and the two moments of Adam, in fp32.
    return f"{count:,} parameters, {count * 16 / 1e9:.2f} GB with optimizer state{guess}"


def num_parameters(
    vocab_size: int,
    max_seq_length: int,
    hidden_size: int,
    num_hidden_layers: int,
    intermediate_size: int,
    pre_ln: bool,
) -> int:
    """Number of trained weights of BasePretrainModel, without the padding of its vocabulary."""
    norm = 2 * hidden_size
    dense = hidden_size * hidden_size + hidden_size
    feed_forward = 2 * hidden_size * intermediate_size + intermediate_size + hidden_size
    num_segments = 2
    embeddings = (vocab_size + max_seq_length + num_segments) * hidden_size + norm
    layer = 4 * dense + feed_forward + 2 * norm
    head = dense + norm + vocab_size
    return embeddings + num_hidden_layers * layer + head + (norm if pre_ln else 0)
