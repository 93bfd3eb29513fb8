"""Contradictions between values of MODEL and PRETRAIN, also as flags of run_pretraining.py."""

from collections.abc import Iterator

from yacs.config import CfgNode

from configs.defaults import OPTIMIZERS
from configs.keys import KEYS

# The update of a weight depends on no other weight: ZeRO may split the tensors anywhere.
ELEMENTWISE_OPTIMIZERS = OPTIMIZERS[:4]
CURVES_THAT_END_ABOVE_0 = ("exponential", "step_decay", "inverse_time")

# Of the architecture bert-mlm alone.
OWN_MODEL_KEYS = (
    *("ENCODER_LN_MODE", "POSITION_EMBEDDING_TYPE", "ROPE_THETA", "GLU", "USE_BIAS", "NORM_TYPE"),
    *("EMBEDDING_NORM", "PAD_VOCAB_TO_MULTIPLE_OF", "ATTENTION_WINDOW", "GLOBAL_ATTENTION_EVERY"),
    *("LOCAL_ROPE_THETA", "RESIDUAL_INIT", "WORD_EMBEDDING_INIT", "OUTPUT_BIAS_INIT"),
)

MAX_RAMP_SIZES = 1000  # of a batch; a search for the step of a sample goes through all of them


def problems_of_pretraining(config: CfgNode) -> Iterator[str]:
    """Yields a line for each contradiction between values of MODEL and PRETRAIN."""
    yield from _model_problems(config)
    yield from _budget_problems(config.PRETRAIN)
    yield from _schedule_problems(config.PRETRAIN)
    yield from _engine_problems(config.PRETRAIN)


def _model_problems(config: CfgNode) -> Iterator[str]:
    model = config.MODEL
    heads = model.NUM_ATTENTION_HEADS
    if heads > 0 and model.HIDDEN_SIZE % heads:
        yield (
            f"MODEL.HIDDEN_SIZE: not divisible by MODEL.NUM_ATTENTION_HEADS, got "
            f"{model.HIDDEN_SIZE}, expected a multiple of {heads}"
        )
    elif model.POSITION_EMBEDDING_TYPE == "rotary" and heads > 0 and model.HIDDEN_SIZE // heads % 2:
        yield (
            f"MODEL.HIDDEN_SIZE: rotary positions need pairs, got {model.HIDDEN_SIZE // heads} per "
            "head, expected an even number"
        )
    if model.ATTENTION_WINDOW and model.GLOBAL_ATTENTION_EVERY == 1:
        yield (
            "MODEL.GLOBAL_ATTENTION_EVERY: leaves no layer for MODEL.ATTENTION_WINDOW "
            f"{model.ATTENTION_WINDOW}, got 1, expected at least 2, or a window of 0"
        )
    if model.LOCAL_ROPE_THETA and not model.ATTENTION_WINDOW:
        yield (
            "MODEL.LOCAL_ROPE_THETA: of the layers with a window, got "
            f"{model.LOCAL_ROPE_THETA:g} without MODEL.ATTENTION_WINDOW, expected both or neither"
        )
    length, is_new = config.DATASET.MAX_SEQ_LENGTH, not config.PRETRAIN.START_FROM
    if is_new and model.ATTENTION_WINDOW > 0 and model.ATTENTION_WINDOW // 2 >= length - 1:
        yield (
            f"MODEL.ATTENTION_WINDOW: covers whole rows of DATASET.MAX_SEQ_LENGTH {length}, "
            f"got {model.ATTENTION_WINDOW}, expected less than {2 * (length - 1)}, or 0"
        )
    if model.GROW and is_new:
        yield "MODEL.GROW: got True without PRETRAIN.START_FROM, expected the smaller model there"
    if model.TYPE != "bert-mlm":
        yield from _problems_with_other_architectures(config)


def _problems_with_other_architectures(config: CfgNode) -> Iterator[str]:
    model = config.MODEL
    if config.DATASET.PACKING:
        yield (
            f"DATASET.PACKING: only bert-mlm keeps the samples of a row apart, got MODEL.TYPE "
            f"{model.TYPE}, expected bert-mlm or DATASET.PACKING False"
        )
    for key in OWN_MODEL_KEYS:
        default = KEYS[f"MODEL.{key}"].default
        if model[key] != default:
            yield (
                f"MODEL.{key}: only bert-mlm has it, got {model[key]} with MODEL.TYPE "
                f"{model.TYPE}, expected {default}, its default"
            )


def _budget_problems(pretrain: CfgNode) -> Iterator[str]:
    schedule = pretrain.LR_SCHEDULE
    batch, start = pretrain.BATCH_SIZE, pretrain.BATCH_SIZE_RAMP_START
    for unit, key in (("time", "TOTAL_TRAINING_TIME"), ("tokens", "NUM_TOKENS")):
        if schedule == unit and pretrain[key] <= 0:
            yield (
                f"PRETRAIN.{key}: PRETRAIN.LR_SCHEDULE {unit} needs it, got {pretrain[key]}, "
                "expected more than 0"
            )
    if start > 0 and batch % start:
        yield (
            f"PRETRAIN.BATCH_SIZE_RAMP_START: the batch grows by it, got {start}, expected a "
            f"divisor of PRETRAIN.BATCH_SIZE = {batch}"
        )
    elif start > 0 and batch // start > MAX_RAMP_SIZES:
        yield (
            f"PRETRAIN.BATCH_SIZE_RAMP_START: got {start}, a ramp up to PRETRAIN.BATCH_SIZE "
            f"{batch} has {batch // start:,} sizes, expected at most "
            f"{MAX_RAMP_SIZES:,}"
        )
    if (start > 0) != (pretrain.BATCH_SIZE_RAMP_STEPS > 0):
        yield (
            f"PRETRAIN.BATCH_SIZE_RAMP_STEPS: got {pretrain.BATCH_SIZE_RAMP_STEPS} with "
            f"PRETRAIN.BATCH_SIZE_RAMP_START {start}, expected both or neither"
        )


def _schedule_problems(pretrain: CfgNode) -> Iterator[str]:
    curve = pretrain.LR_CURVE
    warmup, decay = pretrain.WARMUP_PROPORTION, pretrain.LR_DECAY_PROPORTION
    if curve in CURVES_THAT_END_ABOVE_0 and pretrain.LR_END_RATIO == 0:
        yield (
            f"PRETRAIN.LR_END_RATIO: {curve} never reaches 0, got 0, expected more than 0, e.g. 0.1"
        )
    if curve in ("wsd", "wsd_linear") and warmup + decay > 1:
        yield (
            f"PRETRAIN.LR_DECAY_PROPORTION: more than the share after the warmup, got {decay} with "
            f"PRETRAIN.WARMUP_PROPORTION {warmup}, expected a sum of at most 1"
        )
    begin, end = pretrain.LR_CURVE_BEGIN, pretrain.LR_CURVE_END
    if begin >= end:
        yield (
            f"PRETRAIN.LR_CURVE_END: got {end} with PRETRAIN.LR_CURVE_BEGIN {begin}, expected "
            "more than that"
        )
    if pretrain.VALIDATION_BEGIN_PROPORTION + pretrain.VALIDATION_END_PROPORTION > 1:
        yield (
            "PRETRAIN.VALIDATION_END_PROPORTION: beginning and end overlap, got "
            f"{pretrain.VALIDATION_END_PROPORTION} with PRETRAIN.VALIDATION_BEGIN_PROPORTION "
            f"{pretrain.VALIDATION_BEGIN_PROPORTION}, expected a sum of at most 1"
        )


def _engine_problems(pretrain: CfgNode) -> Iterator[str]:
    stage, optimizer = pretrain.ZERO_STAGE, pretrain.OPTIMIZER
    if stage > 0 and optimizer not in ELEMENTWISE_OPTIMIZERS:
        yield (
            f"PRETRAIN.ZERO_STAGE: {optimizer} needs whole matrices, got {stage}, expected 0 or -1"
        )
    if pretrain.COMPILE and stage == 3:
        yield (
            "PRETRAIN.COMPILE: torch.compile cannot trace ZeRO-3, got True "
            "with PRETRAIN.ZERO_STAGE 3, expected one of them"
        )
    if pretrain.ALLOW_TF32 and pretrain.PRECISION != "fp32":
        yield (
            f"PRETRAIN.ALLOW_TF32: applies to fp32 alone, got True with PRETRAIN.PRECISION "
            f"{pretrain.PRECISION}, expected fp32, or PRETRAIN.ALLOW_TF32 False"
        )
    if pretrain.USE_EARLY_STOPPING and not pretrain.DO_VALIDATION:
        yield (
            "PRETRAIN.USE_EARLY_STOPPING: needs the validation loss, got True with "
            "PRETRAIN.DO_VALIDATION False, expected both or neither"
        )
