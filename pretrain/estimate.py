"""Size and needs of pretraining."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.console import WARNING_PREFIX
from pipeline.hub.models import MODEL_FILES
from pipeline.hub.needs import HubNeed
from pipeline.runtime.devices import lacks_driver
from pipeline.stage_plan import Estimate
from pipeline.store.artifacts import Artifact
from pipeline.store.disk import DiskNeed
from pretrain.engine.placement import expects_gpus
from pretrain.lengthening import lengthening_hints, schedule_of
from pretrain.model.model_types import OWN_TYPE
from pretrain.optimization.batch_sizes import BatchSizes
from pretrain.optimization.lr_curves import CURVES_WITH_STABLE_PHASE
from pretrain.phase_facts import curve_in_words, share_in_words
from pretrain.plan import PretrainPlan, length_of_run
from pretrain.start.checkpoint_config import START_KEY, Checkpoint
from pretrain.start.completion import (
    checkpoint_of,
    has_other_tokenizer,
    notes_on_vocabulary,
    on_hub,
)
from pretrain.start.completion import notes as notes_on_start

if TYPE_CHECKING:
    from yacs.config import CfgNode

NUM_SEGMENTS = 2
# Numbers that an optimizer keeps per weight, if not two (muon: per weight of a layer).
STATE_SIZES = {"sgd": 0, "sgd-momentum": 1, "adafactor": 0, "muon": 1}
SHARED_LAYERS = "albert"  # all layers share their weights


def estimate(config: "CfgNode", plan: PretrainPlan) -> Estimate:
    """Returns the length of the run, the size of the model and the disk space."""
    return Estimate(
        notes=tuple(_notes(config, plan)),
        disk=(_disk_need(config, plan),),
        hub=tuple(_hub_needs(config)),
    )


def _hub_needs(config: "CfgNode") -> Iterator[HubNeed]:
    if on_hub(config):
        yield HubNeed(
            "model",
            config.PRETRAIN.START_FROM,
            START_KEY,
            "the model to start from",
            "a folder with a model here",
            files=(MODEL_FILES["config"], MODEL_FILES["weights"]),
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
    return 4 * _count(config, vocab_size, checkpoint_of(config))


def _count(config: "CfgNode", vocab_size: int, checkpoint: Checkpoint | None) -> int:
    """Returns the number of weights; vocab_size: of the tokenizer, 0 if it is not known yet."""
    model = dict(config.MODEL)
    if config.MODEL.TYPE == SHARED_LAYERS:
        model["NUM_HIDDEN_LAYERS"] = 1
    positions, segments = config.DATASET.MAX_SEQ_LENGTH, NUM_SEGMENTS
    vocab_size = vocab_size or config.TOKENIZER.VOCAB_SIZE
    if checkpoint:
        positions, segments = max(positions, checkpoint.num_positions), checkpoint.num_segments
        if not has_other_tokenizer(config, checkpoint):
            vocab_size = checkpoint.vocab_size
    return num_parameters(model, vocab_size, positions, segments)


def _vocab_size(dataset: Artifact) -> int:
    """Returns the size of the vocabulary, 0 before the dataset is finished."""
    manifest = dataset.manifest if dataset.status().done else None
    return manifest["results"]["vocab_size"] if manifest else 0


def _disk_need(config: "CfgNode", plan: PretrainPlan) -> DiskNeed:
    """Returns the space for the kept checkpoints, the one being written, and the models."""
    settings = config.PRETRAIN
    model = 4 * _count(config, _vocab_size(plan.upstream.artifact), plan.checkpoint)
    num_checkpoints = settings.KEEP_CHECKPOINTS + 1
    if settings.LR_SCHEDULE == "step" and settings.CHECKPOINT_STEPS:
        made = settings.NUM_STEPS // settings.CHECKPOINT_STEPS + 1
        num_checkpoints = min(num_checkpoints, made)
    num_checkpoints += settings.LR_CURVE in CURVES_WITH_STABLE_PHASE
    num_bytes = num_checkpoints * model * (1 + STATE_SIZES.get(settings.OPTIMIZER, 2))
    num_bytes += model * (1 + len(settings.FINETUNE_TIME_MARKERS))
    what = "checkpoints and models of pretraining"
    return DiskNeed(plan.artifact.directory, num_bytes, what, "PRETRAIN.KEEP_CHECKPOINTS")


def _notes(config: "CfgNode", plan: PretrainPlan) -> Iterator[str]:
    """Yields the number of steps, of epochs (of a finished dataset), and the model's size."""
    dataset = plan.upstream.artifact
    if plan.checkpoint and not plan.previous:
        yield from notes_on_start(config, plan.checkpoint)
        built = dataset.directory / "tokenizer" if _vocab_size(dataset) else None
        yield from notes_on_vocabulary(config, plan.checkpoint, built)
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
    yield from lengthening_hints(plan.artifact, schedule_of(config))
    yield from _phase_notes(config, plan)
    if config.SYSTEM.NUM_GPUS and not expects_gpus(config) and lacks_driver():
        yield ("on the CPU: the driver of this machine's NVIDIA GPU is not loaded")
    if config.MODEL.TYPE == OWN_TYPE:  # the others can only be counted by building them
        yield _size_note(config, _vocab_size(dataset), plan.checkpoint)


def _phase_notes(config: "CfgNode", plan: PretrainPlan) -> Iterator[str]:
    """Yields lines on the values of a phase, with a warning if Muon does not see a new rate."""
    if not plan.phase:
        return
    dataset, pretrain = config.DATASET, config.PRETRAIN
    yield (
        f"rows of {dataset.MAX_SEQ_LENGTH} tokens, {share_in_words(dataset)} of them predicted, "
        f"learning rate {pretrain.LEARNING_RATE:g}, curve {curve_in_words(pretrain)}"
    )
    before = plan.previous and plan.previous.config
    if not before or pretrain.OPTIMIZER != "muon":
        return
    names = ("LEARNING_RATE", "MUON_LEARNING_RATE")
    changed = [before.PRETRAIN[name] != pretrain[name] for name in names]
    if changed == [True, False]:
        yield (
            f"{WARNING_PREFIX}LEARNING_RATE of a phase does not change that of muon's matrices, "
            f"MUON_LEARNING_RATE {pretrain.MUON_LEARNING_RATE:g}"
        )


def num_samples(pretrain: "CfgNode") -> int:
    """Returns the number of samples in NUM_STEPS steps."""
    ramp = (pretrain.BATCH_SIZE_RAMP_START, pretrain.BATCH_SIZE_RAMP_STEPS)
    return BatchSizes(pretrain.BATCH_SIZE, *ramp).samples_before(pretrain.NUM_STEPS)


def _size_note(config: "CfgNode", vocab_size: int, checkpoint: Checkpoint | None) -> str:
    count = _count(config, vocab_size, checkpoint)
    is_known = vocab_size or (checkpoint and not config.TOKENIZER.TRAIN)
    guess = "" if is_known else f", if the tokenizer has {config.TOKENIZER.VOCAB_SIZE} entries"
    # Weights, gradients and the two moments of Adam, in fp32.
    return f"{count:,} parameters, {count * 16 / 1e9:.2f} GB with optimizer state{guess}"


def num_parameters(
    model: Mapping[str, Any], vocab_size: int, num_positions: int, num_segments: int = NUM_SEGMENTS
) -> int:
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
    positions = 0 if rotary else (num_positions + num_segments) * width
    num_norms = int(model["EMBEDDING_NORM"]) + int(pre_ln)
    if rotary and pre_ln and model["EMBEDDING_NORM"]:
        num_norms -= 1  # the first layer has no attention norm
    head = linear(width, width) + norm + vocab_size
    layers = model["NUM_HIDDEN_LAYERS"] * layer
    return vocab_size * width + positions + layers + num_norms * norm + head
