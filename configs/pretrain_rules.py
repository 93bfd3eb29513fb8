"""What the keys of MODEL and PRETRAIN must satisfy; the flags of run_pretraining.py too."""

from collections.abc import Iterator

from yacs.config import CfgNode

from configs.defaults import get_default_config
from configs.predicates import (
    FILE_NAME,
    SEED,
    Rule,
    above,
    at_least,
    between,
    each,
    from_to,
    inside,
    one_of,
)

OPTIMIZERS = (
    *("adamw", "adam", "sgd", "sgd-momentum"),
    *("lamb", "adafactor", "stable-adamw", "muon"),
)
# Their update of a weight depends on no other weight, so that ZeRO may cut them up anywhere.
ELEMENTWISE_OPTIMIZERS = OPTIMIZERS[:4]
ACTIVATIONS = ("gelu", "gelu_new", "relu", "silu")
CURVES = (
    *("elastic_step_decay", "linear", "cosine", "exponential", "step_decay"),
    *("inverse_time", "polynomial", "constant", "wsd", "wsd_linear"),
)
CURVES_THAT_END_ABOVE_0 = ("exponential", "step_decay", "inverse_time")

# Of the architecture bert-mlm alone.
OWN_MODEL_KEYS = (
    *("ENCODER_LN_MODE", "POSITION_EMBEDDING_TYPE", "ROPE_THETA", "GLU", "USE_BIAS", "NORM_TYPE"),
    *("EMBEDDING_NORM", "PAD_VOCAB_TO_MULTIPLE_OF", "ATTENTION_WINDOW", "GLOBAL_ATTENTION_EVERY"),
    *("RESIDUAL_INIT", "WORD_EMBEDDING_INIT", "OUTPUT_BIAS_INIT"),
)

MAX_RAMP_SIZES = 1000  # of a batch; finding a sample's step looks at all of them

PRETRAIN_RULES: dict[str, Rule] = {
    "MODEL.TYPE": (  # a run's folder may be named after it
        lambda value: value != "" and FILE_NAME[0](value),
        "bert-mlm or an architecture of transformers",
    ),
    "MODEL.ENCODER_LN_MODE": one_of("pre-ln", "post-ln"),
    "MODEL.POSITION_EMBEDDING_TYPE": one_of("absolute", "rotary"),
    "MODEL.ROPE_THETA": above(0),
    "MODEL.ATTENTION_WINDOW": (
        lambda value: value >= 0 and value % 2 == 0,
        "an even number, 0 or more",
    ),
    "MODEL.GLOBAL_ATTENTION_EVERY": at_least(1),
    "MODEL.NORM_TYPE": one_of("layernorm", "rmsnorm"),
    "MODEL.PAD_VOCAB_TO_MULTIPLE_OF": at_least(1),
    "MODEL.HIDDEN_SIZE": at_least(1),
    "MODEL.NUM_HIDDEN_LAYERS": at_least(1),
    "MODEL.NUM_ATTENTION_HEADS": at_least(1),
    "MODEL.INTERMEDIATE_SIZE": at_least(1),
    "MODEL.HIDDEN_ACT": one_of(*ACTIVATIONS),
    "MODEL.HIDDEN_DROPOUT_PROB": between(0, 1),
    "MODEL.ATTENTION_PROBS_DROPOUT_PROB": between(0, 1),
    "MODEL.INITIALIZER_RANGE": above(0),
    "MODEL.RESIDUAL_INIT": one_of("same", "scaled", "zero"),
    "MODEL.WORD_EMBEDDING_INIT": one_of("random", "cooccurrence"),
    "MODEL.OUTPUT_BIAS_INIT": one_of("zero", "frequencies"),
    "MODEL.LAYER_NORM_EPS": above(0),
    "PRETRAIN.ID": FILE_NAME,
    "PRETRAIN.LR_SCHEDULE": one_of("step", "time", "tokens"),
    "PRETRAIN.NUM_STEPS": at_least(0),
    "PRETRAIN.TOTAL_TRAINING_TIME": at_least(0),
    "PRETRAIN.NUM_TOKENS": at_least(0),
    "PRETRAIN.EARLY_EXIT_TIME_MARKER": at_least(0),
    "PRETRAIN.BATCH_SIZE": at_least(1),
    "PRETRAIN.BATCH_SIZE_RAMP_START": at_least(0),
    "PRETRAIN.BATCH_SIZE_RAMP_STEPS": at_least(0),
    "PRETRAIN.MICRO_BATCH_SIZE": at_least(0),
    "PRETRAIN.LEARNING_RATE": above(0),
    "PRETRAIN.WARMUP_PROPORTION": between(0, 1),
    "PRETRAIN.LR_CURVE": one_of(*CURVES),
    "PRETRAIN.ESD_R": inside(0.5, 1),
    "PRETRAIN.ESD_L": at_least(1),
    "PRETRAIN.LR_END_RATIO": from_to(0, 1),
    "PRETRAIN.LR_POWER": above(0),
    "PRETRAIN.LR_DECAY_STEPS": at_least(2),
    "PRETRAIN.LR_DECAY_PROPORTION": from_to(0, 1),
    "PRETRAIN.OPTIMIZER": one_of(*OPTIMIZERS),
    "PRETRAIN.ADAM_BETA1": between(0, 1),
    "PRETRAIN.ADAM_BETA2": between(0, 1),
    "PRETRAIN.ADAM_EPS": above(0),
    "PRETRAIN.MOMENTUM": between(0, 1),
    "PRETRAIN.MUON_LEARNING_RATE": above(0),
    "PRETRAIN.MUON_MOMENTUM": between(0, 1),
    "PRETRAIN.WEIGHT_DECAY": at_least(0),
    "PRETRAIN.GRADIENT_CLIPPING": at_least(0),
    "PRETRAIN.PRECISION": one_of("auto", "fp16", "bf16", "fp32"),
    "PRETRAIN.SCALE_CNT_LIMIT": at_least(0),
    "PRETRAIN.DIVERGENCE_LIMIT": at_least(0),
    "PRETRAIN.ZERO_STAGE": one_of(-1, 0, 1, 2, 3),
    "PRETRAIN.SEED": SEED,
    "PRETRAIN.PRINT_STEPS": at_least(1),
    "PRETRAIN.CHECKPOINT_STEPS": at_least(0),
    "PRETRAIN.CHECKPOINT_MINUTES": at_least(0),
    "PRETRAIN.NUM_EPOCHS_BETWEEN_CHECKPOINTS": at_least(0),
    "PRETRAIN.KEEP_CHECKPOINTS": at_least(1),
    "PRETRAIN.FINETUNE_TIME_MARKERS": each(above(0)),
    "PRETRAIN.VALIDATION_STEPS": at_least(0),
    "PRETRAIN.VALIDATION_EPOCHS": at_least(1),
    "PRETRAIN.VALIDATION_EPOCHS_BEGIN": at_least(1),
    "PRETRAIN.VALIDATION_EPOCHS_END": at_least(1),
    "PRETRAIN.VALIDATION_BEGIN_PROPORTION": from_to(0, 1),
    "PRETRAIN.VALIDATION_END_PROPORTION": from_to(0, 1),
    "PRETRAIN.VALIDATION_MICRO_BATCH": at_least(1),
    "PRETRAIN.VALIDATION_SAMPLES": at_least(0),
    "PRETRAIN.EARLY_STOP_TIME": at_least(0),
    "PRETRAIN.EARLY_STOP_EVAL_LOSS": above(0),
}


def problems_of_pretraining(config: CfgNode) -> Iterator[str]:
    """One line for each combination of values of MODEL and PRETRAIN that cannot work."""
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
            f"MODEL.HIDDEN_SIZE: rotary positions turn pairs, got {model.HIDDEN_SIZE // heads} per "
            "head, expected an even number"
        )
    if model.ATTENTION_WINDOW and model.GLOBAL_ATTENTION_EVERY == 1:
        yield (
            "MODEL.GLOBAL_ATTENTION_EVERY: leaves no layer for MODEL.ATTENTION_WINDOW "
            f"{model.ATTENTION_WINDOW}, got 1, expected at least 2, or a window of 0"
        )
    length = config.DATASET.MAX_SEQ_LENGTH
    if model.ATTENTION_WINDOW > 0 and model.ATTENTION_WINDOW // 2 >= length - 1:
        yield (
            f"MODEL.ATTENTION_WINDOW: reaches over whole rows of DATASET.MAX_SEQ_LENGTH {length}, "
            f"got {model.ATTENTION_WINDOW}, expected less than {2 * (length - 1)}, or 0"
        )
    if model.TYPE != "bert-mlm":
        yield from _problems_with_other_architectures(config)


def _problems_with_other_architectures(config: CfgNode) -> Iterator[str]:
    model, default = config.MODEL, get_default_config().MODEL
    if config.DATASET.PACKING:
        yield (
            f"DATASET.PACKING: only bert-mlm keeps the samples of a row apart, got MODEL.TYPE "
            f"{model.TYPE}, expected bert-mlm or DATASET.PACKING False"
        )
    for key in OWN_MODEL_KEYS:
        if model[key] != default[key]:
            yield (
                f"MODEL.{key}: only bert-mlm has it, got {model[key]} with MODEL.TYPE "
                f"{model.TYPE}, expected {default[key]}, its default"
            )


def _budget_problems(pretrain: CfgNode) -> Iterator[str]:
    schedule, batch, start = (
        pretrain.LR_SCHEDULE,
        pretrain.BATCH_SIZE,
        pretrain.BATCH_SIZE_RAMP_START,
    )
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
            f"PRETRAIN.BATCH_SIZE_RAMP_START: got {start}, with which a ramp up to "
            f"PRETRAIN.BATCH_SIZE {batch} has {batch // start:,} sizes, expected at most "
            f"{MAX_RAMP_SIZES:,}"
        )
    if (start > 0) != (pretrain.BATCH_SIZE_RAMP_STEPS > 0):
        yield (
            f"PRETRAIN.BATCH_SIZE_RAMP_STEPS: got {pretrain.BATCH_SIZE_RAMP_STEPS} with "
            f"PRETRAIN.BATCH_SIZE_RAMP_START {start}, expected both or neither"
        )


def _schedule_problems(pretrain: CfgNode) -> Iterator[str]:
    curve, warmup, decay = (
        pretrain.LR_CURVE,
        pretrain.WARMUP_PROPORTION,
        pretrain.LR_DECAY_PROPORTION,
    )
    if curve in CURVES_THAT_END_ABOVE_0 and pretrain.LR_END_RATIO == 0:
        yield (
            f"PRETRAIN.LR_END_RATIO: {curve} never reaches 0, got 0, expected more than 0, e.g. 0.1"
        )
    if curve in ("wsd", "wsd_linear") and warmup + decay > 1:
        yield (
            f"PRETRAIN.LR_DECAY_PROPORTION: more than what the warmup leaves, got {decay} with "
            f"PRETRAIN.WARMUP_PROPORTION {warmup}, expected a sum of at most 1"
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
            "PRETRAIN.COMPILE: ZeRO-3 gathers its weights in ways that no compiler sees, got True "
            "with PRETRAIN.ZERO_STAGE 3, expected one of them"
        )
    if pretrain.ALLOW_TF32 and pretrain.PRECISION != "fp32":
        yield (
            f"PRETRAIN.ALLOW_TF32: is about products in fp32, got True with PRETRAIN.PRECISION "
            f"{pretrain.PRECISION}, expected fp32, or PRETRAIN.ALLOW_TF32 False"
        )
    if pretrain.USE_EARLY_STOPPING and not pretrain.DO_VALIDATION:
        yield (
            "PRETRAIN.USE_EARLY_STOPPING: looks at the validation loss, got True with "
            "PRETRAIN.DO_VALIDATION False, expected both or neither"
        )
