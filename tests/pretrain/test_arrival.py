"""Each value of a YAML arrives in the model, the optimizer, DeepSpeed's config or the loop."""

import json
from argparse import Namespace
from functools import cached_property
from pathlib import Path

import pytest
import torch

from configs.defaults import get_default_config
from configs.loading import flatten
from pretrain.engine.deepspeed_config import deepspeed_config
from pretrain.engine.engine import Update
from pretrain.flags import flag_keys, parse_flags
from pretrain.launch import launch_command, training_flags
from pretrain.model.model import build_model
from pretrain.optimization.batch_sizes import BatchSizes
from pretrain.optimization.budget import Budget
from pretrain.optimization.lr_curves import curve_shape, lr_multiplier
from pretrain.optimization.optimizers import build_optimizer
from pretrain.settings import Settings
from pretrain.start.completion import completed
from pretrain.training.due import is_checkpoint_due, is_line_due, is_validation_due
from pretrain.training.metrics_file import SilentLog
from pretrain.training.training_run import TrainingRun

SMALL = {
    "MODEL.HIDDEN_SIZE": 32,
    "MODEL.NUM_HIDDEN_LAYERS": 2,
    "MODEL.NUM_ATTENTION_HEADS": 4,
    "MODEL.INTERMEDIATE_SIZE": 64,
    "PRETRAIN.BATCH_SIZE": 8,
    "PRETRAIN.MICRO_BATCH_SIZE": 8,
}
WINDOW = {"MODEL.ATTENTION_WINDOW": 8}
ROTARY = {"MODEL.POSITION_EMBEDDING_TYPE": "rotary"}
BY_TIME, BY_TOKENS = {"PRETRAIN.LR_SCHEDULE": "time"}, {"PRETRAIN.LR_SCHEDULE": "tokens"}
RAMP = {"PRETRAIN.BATCH_SIZE_RAMP_START": 2, "PRETRAIN.BATCH_SIZE_RAMP_STEPS": 6}
FP32 = {"PRETRAIN.PRECISION": "fp32"}
MUON = {"PRETRAIN.OPTIMIZER": "muon"}
BY_EPOCHS = {"PRETRAIN.VALIDATION_STEPS": 0}
EARLY = {"PRETRAIN.USE_EARLY_STOPPING": True, "PRETRAIN.EARLY_STOP_TIME": 0.0}


class Built:
    """What a rank builds for a config, by way of the stage's command line."""

    def __init__(self, values):
        config = get_default_config()
        for key, value in (SMALL | values).items():
            section, _, name = key.partition(".")
            config[section][name] = value
        config = completed(config)
        command = launch_command(training_flags(config, Path("d"), Path("o/d/p")), (), 1)
        script = next(i for i, word in enumerate(command) if word.endswith("run_pretraining.py"))
        self.args = parse_flags(command[script + 1 :])
        special_ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
        found = {"vocab_size": 61, "max_seq_length": 16, "special_ids": special_ids}
        self.settings = Settings.from_args(self.args, **found)
        self.training = self.settings.training

    @cached_property
    def model(self):
        torch.manual_seed(self.training.seed)
        return build_model(self.settings.model)

    @property
    def layer(self):
        return self.model.encoder.layers[1]

    @cached_property
    def optimizer(self):
        return build_optimizer(self.model, self.training)

    def group(self, **having):
        groups = self.optimizer.param_groups
        return next((group for group in groups if having.items() <= group.items()), {})

    @property
    def deepspeed(self):
        return deepspeed_config(self.settings.engine, 1, 1000)

    @property
    def shape(self):
        return curve_shape(self.training)

    @property
    def batch_sizes(self):
        training = self.training
        ramp = training.batch_size_ramp_start, training.batch_size_ramp_steps
        return BatchSizes(training.train_batch_size, *ramp)

    @cached_property
    def run(self):
        engine = Namespace(device=torch.device("cpu"), torch_autocast_z0_gradscaler=None)
        engine.fp16_enabled = lambda: True
        return TrainingRun(self.settings, engine, None, None, [], SilentLog())

    def steps_due(self, progress):
        """Shard visits after which a validation is due, at some share of the run."""
        return [
            v
            for v in range(1, 13)
            if is_validation_due(self.training, v, progress, range(v - 1, v))
        ]


def _after(run, hours):
    """The run at that time of the clock."""
    run.budget.step, run.budget.elapsed = 7, hours * 3600
    return run


def _stopped_early(built, minutes, loss):
    run = _after(built.run, minutes / 60)
    run.eval_loss = loss
    run._stop_early_if_hopeless()
    return run.budget.stopped_early


def _steps_at_scale_1(built):
    for step in range(1, 10):
        built.run.window.add(torch.tensor(5.0), Update(skipped=False, scale=1.0))
        try:
            built.run.window.collect(step)
        except FloatingPointError:
            return step
    return None


def _json(tmp_path_factory):
    path = tmp_path_factory.mktemp("json") / "ds.json"
    path.write_text('{"prescale_gradients": true}')
    return str(path)


def _checkpoint(tmp_path_factory):
    """A model with the sizes of SMALL, without its weights."""
    sizes = {key.removeprefix("MODEL.").lower(): SMALL[key] for key in list(SMALL)[:4]}
    folder = tmp_path_factory.mktemp("checkpoint")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", **sizes}))
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    return str(folder)


# (key, value, other keys that it needs, what it does to what is built)
ARRIVALS = [
    ("MODEL.TYPE", "roberta", {}, lambda b: type(b.model).__name__ == "TransformersModel"),
    ("MODEL.ENCODER_LN_MODE", "post-ln", {}, lambda b: not b.layer.pre_ln),
    ("MODEL.POSITION_EMBEDDING_TYPE", "rotary", {}, lambda b: b.model.encoder.theta > 0),
    ("MODEL.ROPE_THETA", 500.0, ROTARY, lambda b: b.model.encoder.theta == 500.0),
    (
        *("MODEL.LOCAL_ROPE_THETA", 500.0, WINDOW | ROTARY),
        lambda b: b.model.encoder.local_theta == 500.0,
    ),
    ("MODEL.ATTENTION_WINDOW", 8, {}, lambda b: b.model.encoder.reach == 4),
    ("MODEL.GLOBAL_ATTENTION_EVERY", 5, WINDOW, lambda b: b.model.encoder.global_every == 5),
    ("MODEL.GLU", True, {}, lambda b: b.layer.feed_forward.input.out_features == 128),
    ("MODEL.USE_BIAS", False, {}, lambda b: b.layer.attention.qkv.bias is None),
    ("MODEL.NORM_TYPE", "rmsnorm", {}, lambda b: type(b.layer.attention_norm).__name__[0] == "R"),
    (
        *("MODEL.EMBEDDING_NORM", False, {}),
        lambda b: isinstance(b.model.encoder.embeddings.norm, torch.nn.Identity),
    ),
    (
        *("MODEL.PAD_VOCAB_TO_MULTIPLE_OF", 50, {}),
        lambda b: b.model.encoder.embeddings.word.num_embeddings == 100,
    ),
    ("MODEL.HIDDEN_SIZE", 48, {}, lambda b: b.layer.attention.output.out_features == 48),
    ("MODEL.NUM_HIDDEN_LAYERS", 3, {}, lambda b: len(b.model.encoder.layers) == 3),
    ("MODEL.NUM_ATTENTION_HEADS", 8, {}, lambda b: b.layer.attention.num_heads == 8),
    ("MODEL.INTERMEDIATE_SIZE", 80, {}, lambda b: b.layer.feed_forward.input.out_features == 80),
    ("MODEL.HIDDEN_ACT", "relu", {}, lambda b: "relu" in str(b.layer.feed_forward.activation)),
    ("MODEL.HIDDEN_DROPOUT_PROB", 0.3, {}, lambda b: b.layer.dropout.p == 0.3),
    (
        *("MODEL.ATTENTION_PROBS_DROPOUT_PROB", 0.3, {}),
        lambda b: b.layer.attention.dropout_prob == 0.3,
    ),
    (
        *("MODEL.INITIALIZER_RANGE", 0.5, {}),
        lambda b: 0.4 < b.layer.attention.qkv.weight.std().item() < 0.6,
    ),
    (
        *("MODEL.RESIDUAL_INIT", "zero", {}),
        lambda b: not b.layer.feed_forward.output.weight.any(),
    ),
    (
        *("MODEL.WORD_EMBEDDING_INIT", "cooccurrence", {}),
        lambda b: b.settings.model.word_embedding_init == "cooccurrence",
    ),
    (
        *("MODEL.OUTPUT_BIAS_INIT", "frequencies", {}),
        lambda b: b.settings.model.output_bias_init == "frequencies",
    ),
    (
        *("MODEL.VOCABULARY_TRANSFER", "mean", {}),
        lambda b: b.settings.model.vocabulary_transfer == "mean",
    ),
    ("MODEL.GROW", True, {"PRETRAIN.START_FROM": _checkpoint}, lambda b: b.settings.model.grow),
    ("MODEL.LAYER_NORM_EPS", 1e-3, {}, lambda b: b.layer.attention_norm.eps == 1e-3),
    (
        *("PRETRAIN.START_FROM", _checkpoint, {}),
        lambda b: b.args.start_from and b.settings.model.encoder_ln_mode == "post-ln",
    ),
    ("PRETRAIN.LR_SCHEDULE", "time", {}, lambda b: Budget(b.training).position == (0, 24.0)),
    ("PRETRAIN.NUM_STEPS", 77, {}, lambda b: Budget(b.training).position == (0, 77)),
    (
        *("PRETRAIN.TOTAL_TRAINING_TIME", 1.5, BY_TIME),
        lambda b: Budget(b.training).position == (0, 1.5),
    ),
    ("PRETRAIN.NUM_TOKENS", 900, BY_TOKENS, lambda b: Budget(b.training).position == (0, 900)),
    (
        *("PRETRAIN.EARLY_EXIT_TIME_MARKER", 1.5, {}),
        lambda b: _after(b.run, 1.5).budget.finished and not _after(b.run, 1.4).budget.finished,
    ),
    (
        *("PRETRAIN.BATCH_SIZE", 16, {}),
        lambda b: b.batch_sizes.full == b.deepspeed["train_batch_size"] == 16,
    ),
    ("PRETRAIN.BATCH_SIZE_RAMP_START", 4, RAMP, lambda b: b.batch_sizes.size(0) == 4),
    ("PRETRAIN.BATCH_SIZE_RAMP_STEPS", 9, RAMP, lambda b: b.batch_sizes.size(8) == 6),
    (
        *("PRETRAIN.MICRO_BATCH_SIZE", 2, {}),
        lambda b: b.deepspeed["train_micro_batch_size_per_gpu"] == 2,
    ),
    ("PRETRAIN.ALLOW_TF32", True, FP32, lambda b: b.args.allow_tf32),
    ("PRETRAIN.LEARNING_RATE", 0.5, {}, lambda b: b.group()["lr"] == 0.5),
    ("PRETRAIN.WARMUP_PROPORTION", 0.25, {}, lambda b: b.shape.warmup == 0.25),
    ("PRETRAIN.LR_CURVE_BEGIN", 0.25, {}, lambda b: b.shape.begin == 0.25),
    ("PRETRAIN.LR_CURVE_END", 0.75, {}, lambda b: b.shape.end == 0.75),
    (
        *("PRETRAIN.LR_CURVE", "linear", {}),
        lambda b: 0.5 < lr_multiplier(b.training.curve, 0.5, b.shape) < 0.6,
    ),
    ("PRETRAIN.ESD_R", 0.6, {}, lambda b: b.shape.r == 0.6),
    ("PRETRAIN.ESD_L", 4, {}, lambda b: b.shape.l == 4),
    ("PRETRAIN.LR_END_RATIO", 0.1, {}, lambda b: b.shape.end_ratio == 0.1),
    ("PRETRAIN.LR_POWER", 2.0, {}, lambda b: b.shape.power == 2.0),
    ("PRETRAIN.LR_DECAY_STEPS", 5, {}, lambda b: b.shape.num_decay_steps == 5),
    ("PRETRAIN.LR_DECAY_PROPORTION", 0.5, {}, lambda b: b.shape.decay_proportion == 0.5),
    ("PRETRAIN.OPTIMIZER", "lamb", {}, lambda b: type(b.optimizer).__name__ == "Lamb"),
    ("PRETRAIN.ADAM_BETA1", 0.5, {}, lambda b: b.group()["betas"] == (0.5, 0.98)),
    ("PRETRAIN.ADAM_BETA2", 0.5, {}, lambda b: b.group()["betas"] == (0.9, 0.5)),
    ("PRETRAIN.ADAM_EPS", 0.5, {}, lambda b: b.group()["eps"] == 0.5),
    (
        *("PRETRAIN.MOMENTUM", 0.5, {"PRETRAIN.OPTIMIZER": "sgd-momentum"}),
        lambda b: b.group()["momentum"] == 0.5,
    ),
    ("PRETRAIN.MUON_LEARNING_RATE", 0.5, MUON, lambda b: b.group(num_parts=1)["lr"] == 0.5),
    ("PRETRAIN.MUON_MOMENTUM", 0.5, MUON, lambda b: b.group(num_parts=3)["momentum"] == 0.5),
    ("PRETRAIN.WEIGHT_DECAY", 0.5, {}, lambda b: b.group(weight_decay=0.5)),
    ("PRETRAIN.GRADIENT_CLIPPING", 0.5, {}, lambda b: b.deepspeed["gradient_clipping"] == 0.5),
    ("PRETRAIN.PRECISION", "bf16", {}, lambda b: b.deepspeed["bf16"]["enabled"]),
    ("PRETRAIN.SCALE_CNT_LIMIT", 3, {}, lambda b: _steps_at_scale_1(b) == 3),
    ("PRETRAIN.DIVERGENCE_LIMIT", 0.5, {}, lambda b: b.run.window.divergence_limit == 0.5),
    ("PRETRAIN.ZERO_STAGE", 2, {}, lambda b: b.deepspeed["zero_optimization"]["stage"] == 2),
    ("PRETRAIN.DEEPSPEED_CONFIG", _json, {}, lambda b: "prescale_gradients" in b.deepspeed),
    (
        *("PRETRAIN.GRADIENT_CHECKPOINTING", True, {}),
        lambda b: b.model.encoder.gradient_checkpointing,
    ),
    ("PRETRAIN.COMPILE", True, {}, lambda b: b.settings.engine.compile),
    ("PRETRAIN.SEED", 7, {}, lambda b: b.training.seed == 7),
    ("PRETRAIN.PRINT_STEPS", 7, {}, lambda b: is_line_due(b.training, 7)),
    ("PRETRAIN.TENSORBOARD", True, {}, lambda b: b.args.tensorboard),
    (
        *("PRETRAIN.CHECKPOINT_STEPS", 7, {}),
        lambda b: is_checkpoint_due(b.training, 7, 0.0, range(0, 0)),
    ),
    (
        *("PRETRAIN.CHECKPOINT_MINUTES", 15.0, {}),
        lambda b: (
            is_checkpoint_due(b.training, 7, 15 * 60, range(0, 0))
            and not is_checkpoint_due(b.training, 7, 15 * 60 - 1, range(0, 0))
        ),
    ),
    (
        *("PRETRAIN.NUM_EPOCHS_BETWEEN_CHECKPOINTS", 3, {}),
        lambda b: (
            is_checkpoint_due(b.training, 7, 0.0, range(2, 3))
            and not is_checkpoint_due(b.training, 7, 0.0, range(3, 4))
        ),
    ),
    ("PRETRAIN.KEEP_CHECKPOINTS", 5, {}, lambda b: b.run.writer.keep == 5),
    (
        *("PRETRAIN.FINETUNE_TIME_MARKERS", [0.5, 2.0], {}),
        lambda b: b.training.finetune_time_markers == [0.5, 2.0],
    ),
    ("PRETRAIN.DO_VALIDATION", False, BY_EPOCHS, lambda b: b.steps_due(0.5) == []),
    ("PRETRAIN.VALIDATION_STEPS", 5, {}, lambda b: b.steps_due(0.5) == [5, 10]),
    ("PRETRAIN.VALIDATION_EPOCHS", 4, BY_EPOCHS, lambda b: b.steps_due(0.5) == [4, 8, 12]),
    ("PRETRAIN.VALIDATION_EPOCHS_BEGIN", 6, BY_EPOCHS, lambda b: b.steps_due(0.0) == [6, 12]),
    ("PRETRAIN.VALIDATION_EPOCHS_END", 6, BY_EPOCHS, lambda b: b.steps_due(1.0) == [6, 12]),
    (
        *("PRETRAIN.VALIDATION_BEGIN_PROPORTION", 0.6, BY_EPOCHS),
        lambda b: len(b.steps_due(0.5)) == 12,
    ),
    (
        *("PRETRAIN.VALIDATION_END_PROPORTION", 0.6, BY_EPOCHS),
        lambda b: len(b.steps_due(0.5)) == 12,
    ),
    (
        "PRETRAIN.VALIDATION_MICRO_BATCH",
        3,
        {},
        lambda b: b.settings.engine.validation_micro_batch == 3,
    ),
    ("PRETRAIN.VALIDATION_SAMPLES", 3, {}, lambda b: b.training.validation_samples == 3),
    ("PRETRAIN.USE_EARLY_STOPPING", True, {}, lambda b: _stopped_early(b, 180, 6.1)),
    (
        *("PRETRAIN.EARLY_STOP_TIME", 5.0, EARLY),
        lambda b: not _stopped_early(b, 4, 9.0) and _stopped_early(b, 5, 9.0),
    ),
    ("PRETRAIN.EARLY_STOP_EVAL_LOSS", 3.0, EARLY, lambda b: _stopped_early(b, 1, 3.1)),
]


@pytest.mark.parametrize(
    ("key", "value", "others", "arrives"), ARRIVALS, ids=[row[0] for row in ARRIVALS]
)
def test_a_value_arrives(key, value, others, arrives, tmp_path_factory):
    assert arrives(Built(_made({**others, key: value}, tmp_path_factory)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value", "others", "arrives"), ARRIVALS, ids=[row[0] for row in ARRIVALS]
)
def test_without_it_things_are_otherwise(key, value, others, arrives, tmp_path_factory):
    others = {name: other for name, other in others.items() if name != key}
    if key in RAMP or key == "PRETRAIN.NUM_TOKENS":
        return  # not without it
    assert not arrives(Built(_made(others, tmp_path_factory)))


def _made(values, tmp_path_factory):
    return {key: v(tmp_path_factory) if callable(v) else v for key, v in values.items()}


def test_the_table_is_complete():
    keys = {key for key in flatten(get_default_config()) if key.startswith(("MODEL.", "PRETRAIN."))}
    assert {row[0] for row in ARRIVALS} == keys & set(flag_keys().values())
