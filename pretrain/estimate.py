"""Size and needs of pretraining."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.runtime.devices import lacks_driver
from pipeline.stage_plan import Estimate
from pipeline.store.artifacts import Artifact
from pipeline.store.disk import DiskNeed
from pretrain.engine.placement import expects_gpus
from pretrain.lengthening import lengthening_hints, schedule_of
from pretrain.model.model_types import OWN_TYPE
from pretrain.optimization.batch_sizes import BatchSizes
from pretrain.optimization.lr_curves import CURVES_WITH_STABLE_PHASE
from pretrain.plan import PretrainPlan, length_of_run

if TYPE_CHECKING:
    from yacs.config import CfgNode

NUM_SEGMENTS = 2
# Numbers that an optimizer keeps per weight, if not two (muon: per weight of a layer).
STATE_SIZES = {"sgd": 0, "sgd-momentum": 1, "adafactor": 0, "muon": 1}
SHARED_LAYERS = "albert"  # all layers share their weights


def estimate(config: "CfgNode", plan: PretrainPlan) -> Estimate:
    """Returns the length of the run, the size of the model and the disk space."""
    dataset = plan.upstream.artifact
    return Estimate(
        notes=tuple(_notes(config, dataset, plan.artifact)),
        disk=(_disk_need(config, dataset, plan.artifact),),
    )


def precision_in_words(config: "CfgNode", on_gpus: bool) -> str:
    """Returns the meaning of "auto", without torch; pretrain.engine.precision decides."""
    if config.PRETRAIN.PRECISION != "auto":
        return config.PRETRAIN.PRECISION
    if on_gpus:
        return "fp16"
    ours = config.MODEL.TYPE == OWN_TYPE and config.PRETRAIN.ZERO_STAGE <= 0
    return "bf16 where this processor is built for it, else fp32" if ours else "fp32"


def model_bytes(config: "CfgNode", vocab_size: int) -> int:
    """Returns the size of the exported fp32 model; approximate for those of transformers."""
    model = dict(config.MODEL)
    if config.MODEL.TYPE == SHARED_LAYERS:
        model["NUM_HIDDEN_LAYERS"] = 1
    return 4 * num_parameters(model, vocab_size, config.DATASET.MAX_SEQ_LENGTH)


def _vocab_size(dataset: Artifact) -> int:
    """Returns the size of the vocabulary, 0 before the dataset is finished."""
    manifest = dataset.manifest if dataset.status().done else None
    return manifest["results"]["vocab_size"] if manifest else 0


def _disk_need(config: "CfgNode", dataset: Artifact, artifact: Artifact) -> DiskNeed:
    """Returns the space for the kept checkpoints, the one being written, and the models."""
    settings = config.PRETRAIN
    model = model_bytes(config, _vocab_size(dataset) or config.TOKENIZER.VOCAB_SIZE)
    num_checkpoints = settings.KEEP_CHECKPOINTS + 1
    if settings.LR_SCHEDULE == "step" and settings.CHECKPOINT_STEPS:
        made = settings.NUM_STEPS // settings.CHECKPOINT_STEPS + 1
        num_checkpoints = min(num_checkpoints, made)
    num_checkpoints += settings.LR_CURVE in CURVES_WITH_STABLE_PHASE
    num_bytes = num_checkpoints * model * (1 + STATE_SIZES.get(settings.OPTIMIZER, 2))
    num_bytes += model * (1 + len(settings.FINETUNE_TIME_MARKERS))
    what = "checkpoints and models of pretraining"
    return DiskNeed(artifact.directory, num_bytes, what, "PRETRAIN.KEEP_CHECKPOINTS")


def _notes(config: "CfgNode", dataset: Artifact, artifact: Artifact) -> Iterator[str]:
    """Yields the number of steps, of epochs (of a finished dataset), and the model's size.

    artifact: of the run.
    """
    # Without torch: the run may belong to another machine.
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
    yield effort
    if end := config.DATASET.MASKED_LM_PROB_END:
        yield f"share of masked tokens: from {config.DATASET.MASKED_LM_PROB:g} to {end:g}, linearly"
    yield from lengthening_hints(artifact, schedule_of(config))
    if config.SYSTEM.NUM_GPUS and not expects_gpus(config) and lacks_driver():
        yield ("on the CPU: the driver of this machine's NVIDIA GPU is not loaded")
    if config.MODEL.TYPE == OWN_TYPE:  # the others can only be counted by building them
        yield (_size_note(config, _vocab_size(dataset)))


def num_samples(pretrain: "CfgNode") -> int:
    """Returns the number of samples in NUM_STEPS steps."""
    ramp = (pretrain.BATCH_SIZE_RAMP_START, pretrain.BATCH_SIZE_RAMP_STEPS)
    return BatchSizes(pretrain.BATCH_SIZE, *ramp).samples_before(pretrain.NUM_STEPS)


def _size_note(config: "CfgNode", vocab_size: int) -> str:
    model = config.MODEL
    count = num_parameters(
        model, vocab_size or config.TOKENIZER.VOCAB_SIZE, config.DATASET.MAX_SEQ_LENGTH
    )
    guess = "" if vocab_size else f", if the tokenizer has {config.TOKENIZER.VOCAB_SIZE} entries"
    # Weights, gradients and the two moments of Adam, in fp32.
    return f"{count:,} parameters, {count * 16 / 1e9:.2f} GB with optimizer state{guess}"


def num_parameters(model: Mapping[str, Any], vocab_size: int, max_seq_length: int) -> int:
    """Returns the number of trained weights of BasePretrainModel, without vocabulary padding.

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
