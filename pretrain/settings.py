"""The settings of a run, built once from the parsed flags of run_pretraining.

Each field is named after its flag; the comment on its key in configs/defaults.py explains it. Some
flags are fields of several classes.
"""

from argparse import Namespace
from dataclasses import Field, dataclass, field
from typing import Any, ClassVar, TypeVar

SettingsClass = TypeVar("SettingsClass", bound="_FromArgs")


class _FromArgs:
    """A dataclass with fields named after flags."""

    __dataclass_fields__: ClassVar[dict[str, Field]]

    @classmethod
    def from_args(cls: type[SettingsClass], args: Any, **found: Any) -> SettingsClass:
        """Builds the settings from a namespace; returns settings unchanged.

        found: more values, by field. Raises TypeError naming the missing fields.
        """
        if isinstance(args, cls):
            return args
        values = vars(args) | found
        return cls(**{name: values[name] for name in cls.__dataclass_fields__ if name in values})


@dataclass(frozen=True)
class ModelSettings(_FromArgs):
    """vocab_size: number of word embeddings, without padding. max_seq_length: tokens per row.
    num_positions: of the model, at least max_seq_length; 0: the same. type_vocab_size: number of
    segments. special_ids: pad_token_id, bos_token_id and eos_token_id. checkpoint_config: content
    of the config.json to start from, for the architectures of transformers."""

    model_type: str
    vocab_size: int
    max_seq_length: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    hidden_act: str
    encoder_ln_mode: str
    position_embedding_type: str
    rope_theta: float
    attention_window: int
    global_attention_every: int
    glu: bool
    use_bias: bool
    norm_type: str
    embedding_norm: bool
    pad_vocab_to_multiple_of: int
    hidden_dropout_prob: float
    attention_probs_dropout_prob: float
    initializer_range: float
    residual_init: str
    layer_norm_eps: float
    gradient_checkpointing: bool
    word_embedding_init: str = "random"
    output_bias_init: str = "zero"
    vocabulary_transfer: str = "focus"
    grow: bool = False
    special_ids: dict[str, int] = field(default_factory=dict)
    local_rope_theta: float = 0.0
    type_vocab_size: int = 2
    num_positions: int = 0
    checkpoint_config: dict[str, Any] = field(default_factory=dict)

    @property
    def positions(self) -> int:
        """The number of the model's positions."""
        return self.num_positions or self.max_seq_length


@dataclass(frozen=True)
class TrainingSettings(_FromArgs):
    """Length, batches, optimizer, learning rate, validation and checkpoints of a run."""

    output_dir: str
    seed: int
    # Length
    lr_schedule: str
    max_steps: int
    total_training_time: float
    max_tokens: int
    early_exit_time_marker: float
    # Batches
    train_batch_size: int
    batch_size_ramp_start: int
    batch_size_ramp_steps: int
    masked_lm_prob_end: float
    # Learning rate
    lr: float
    curve: str
    warmup_proportion: float
    esd_r: float
    esd_l: int
    lr_end_ratio: float
    lr_power: float
    lr_decay_steps: int
    lr_decay_proportion: float
    curve_begin: float
    curve_end: float
    # Optimizer
    optimizer_type: str
    weight_decay: float
    adam_beta1: float
    adam_beta2: float
    adam_eps: float
    momentum: float
    muon_learning_rate: float
    muon_momentum: float
    # Lines of metrics, checkpoints and exports
    print_steps: int
    checkpoint_steps: int
    checkpoint_minutes: float
    num_epochs_between_checkpoints: int
    keep_checkpoints: int
    finetune_time_markers: list[float]
    # Validation, and reasons to stop
    do_validation: bool
    validation_samples: int
    validation_steps: int
    validation_epochs: int
    validation_epochs_begin: int
    validation_epochs_end: int
    validation_begin_proportion: float
    validation_end_proportion: float
    use_early_stopping: bool
    early_stop_time: float
    early_stop_eval_loss: float
    divergence_limit: float
    scale_cnt_limit: int


@dataclass(frozen=True)
class EngineSettings(_FromArgs):
    """train_batch_size: samples per step after the ramp. train_micro_batch_size_per_gpu: 0 before
    the trial. precision: "auto" before the choice of the device. multiplies_in_bf16: see
    pretrain.engine.precision."""

    train_batch_size: int
    train_micro_batch_size_per_gpu: int
    validation_micro_batch: int
    gradient_clipping: float
    precision: str
    zero_stage: int
    optimizer_type: str
    gradient_checkpointing: bool
    compile: bool
    deepspeed_config: str
    multiplies_in_bf16: bool = False


@dataclass(frozen=True)
class Settings:
    """All settings of a run."""

    model: ModelSettings
    training: TrainingSettings
    engine: EngineSettings

    @classmethod
    def from_args(cls, args: "Namespace | Settings", **found: Any) -> "Settings":
        """See `_FromArgs.from_args`."""
        if isinstance(args, Settings):
            return args
        model = ModelSettings.from_args(args, **found)
        training = TrainingSettings.from_args(args, **found)
        return cls(model, training, EngineSettings.from_args(args, **found))
