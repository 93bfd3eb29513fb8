"""Finetunes one classifier with transformers' Trainer, and predicts with it."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.encoding import Encoded, load_encoded, load_tokenizer
from finetune.examples import has_split
from finetune.metrics import predicted_rows, score_predictions
from finetune.runs import Source, TrainingSettings
from finetune.tasks import Split, Task

if TYPE_CHECKING:
    from transformers import (
        PretrainedConfig,
        PreTrainedModel,
        PreTrainedTokenizerBase,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

# Lines about loss and learning rate that a run leaves in its log.
LOG_LINES = 20


@dataclass(frozen=True)
class Outcome:
    """What a run gives.

    dev: metrics by dev split. predictions: (index, prediction) of each row by test split.
    history: loss and learning rate over the steps. evaluations: `step`, `epoch`, `score` of those
    during training. majority: the label that the most training rows have, and the task's score if
    it were always given; empty if the task is no plain classification. counts: rows and steps.
    """

    model: "PreTrainedModel"
    dev: dict[str, dict[str, float]]
    predictions: dict[Split, list[tuple[str, str]]]
    history: list[dict[str, float]]
    evaluations: list[dict[str, float]]
    majority: dict[str, Any]
    counts: dict[str, int]


def finetune_task(
    task: Task,
    source: Source,
    settings: TrainingSettings,
    log: Callable[[str], None],
    do_train: bool = True,
    do_eval: bool = True,
    do_predict: bool = True,
) -> Outcome:
    """Trains, scores the dev splits and predicts the test splits that are there.

    The outcome depends on the arguments alone, not on what this process ran before.
    """
    model = build_classifier(source.start, task, settings.seed)
    max_length = usable_length(model.config, settings.max_seq_length)
    token_types = getattr(model.config, "type_vocab_size", 0) > 1

    def load(split: Split) -> Encoded:
        return load_encoded(task, split.name, source.data_dir, source.base, max_length, token_types)

    train = load(task.train) if do_train else None
    dev = {split.name: load(split) for split in task.dev} if do_eval else {}
    tests = [split for split in task.test if do_predict and has_split(split, source.data_dir)]
    trainer = build_trainer(model, load_tokenizer(source.base), task, settings, train, dev, log)
    if train:
        log("\n".join(f"left out: {row}" for row in train.examples.malformed) or "no row left out")
        trainer.train()
    return Outcome(
        model,
        dev={
            name: score_predictions(task, predict(trainer, split), split.examples)
            for name, split in dev.items()
        },
        predictions={
            s: predicted_rows(task, predict(trainer, load(s)), load(s).examples) for s in tests
        },
        history=training_history(trainer),
        evaluations=[],
        majority={},
        counts=_counts(train, dev, trainer.state.global_step),
    )


def _counts(train: Encoded | None, dev: dict[str, Encoded], num_steps: int) -> dict[str, int]:
    return {
        "num_train_rows": len(train) if train else 0,
        "num_malformed_rows": sum(len(s.examples.malformed) for s in (train, *dev.values()) if s),
        "num_dev_rows": sum(len(split) for split in dev.values()),
        "num_steps": num_steps,
    }


def build_classifier(model: str, task: Task, seed: int) -> "PreTrainedModel":
    """The checkpoint's encoder with a head for the task; what it lacks is drawn from the seed."""
    import torch
    from transformers import AutoModelForSequenceClassification, logging, set_seed

    from pretrain.modeling_extremebert import register

    register()  # so that our own architecture loads too
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    set_seed(seed)
    words = list(task.labels) or ["score"]
    return AutoModelForSequenceClassification.from_pretrained(
        model,
        num_labels=len(words),
        id2label=dict(enumerate(words)),
        label2id={word: i for i, word in enumerate(words)},
        problem_type="regression" if task.is_regression else "single_label_classification",
        ignore_mismatched_sizes=True,  # MNLI's head does not fit a task with two labels
        dtype=torch.float32,
    )


def usable_length(model: "PretrainedConfig", wanted: int) -> int:
    """The wanted tokens per sample, or as many as the model has positions for."""
    positions = getattr(model, "max_position_embeddings", wanted)
    if "roberta" in model.model_type:  # these number their positions from pad_token_id + 1
        positions -= model.pad_token_id + 1
    return min(wanted, positions)


def build_trainer(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    task: Task,
    settings: TrainingSettings,
    train: Encoded | None,
    dev: dict[str, Encoded],
    log: Callable[[str], None],
) -> "Trainer":
    """A Trainer that writes no files. dev: the splits that `eval_steps` evaluates on."""
    from transformers import DataCollatorWithPadding, PrinterCallback

    trainer = _length_grouping_trainer()(
        model=model,
        args=_training_arguments(settings, len(train) if train else 0),
        train_dataset=train,
        eval_dataset=dev,
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_log_lines(log))
    return trainer


def _length_grouping_trainer() -> type["Trainer"]:
    """A Trainer whose training batches hold samples of similar length, so that little is padded.

    The Trainer's own option for this would reorder the samples to be predicted, too.
    """
    import torch
    from transformers import Trainer
    from transformers.trainer_pt_utils import LengthGroupedSampler

    class LengthGroupingTrainer(Trainer):
        def _get_train_sampler(self, train_dataset=None):
            return LengthGroupedSampler(
                self.args.train_batch_size * self.args.gradient_accumulation_steps,
                lengths=self.train_dataset.lengths.tolist(),
                generator=torch.Generator().manual_seed(self.args.seed),
            )

    return LengthGroupingTrainer


def _training_arguments(settings: TrainingSettings, num_rows: int) -> "TrainingArguments":
    import torch
    from transformers import TrainingArguments

    num_gpus = torch.cuda.device_count()
    num_steps = settings.epochs * num_rows / settings.batch_size
    with_bf16 = num_gpus > 0 and torch.cuda.is_bf16_supported()
    return TrainingArguments(
        output_dir=tempfile.gettempdir(),  # has to be there; the Trainer saves nothing
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=_micro_batch(settings, num_gpus),
        per_device_eval_batch_size=settings.eval_batch_size,
        gradient_accumulation_steps=settings.accumulation_steps,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup,
        lr_scheduler_type=settings.lr_scheduler_type,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        use_cpu=num_gpus == 0,
        bf16=with_bf16,
        fp16=num_gpus > 0 and not with_bf16,
        eval_strategy="steps" if settings.eval_steps else "no",
        eval_steps=settings.eval_steps or None,
        save_strategy="no",
        logging_steps=max(1, round(num_steps / LOG_LINES)),
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=num_gpus > 0,
    )


def _micro_batch(settings: TrainingSettings, num_gpus: int) -> int:
    """Samples per GPU and pass: GPUs x accumulation steps x this is the batch size."""
    parts = max(1, num_gpus) * settings.accumulation_steps
    if settings.batch_size % parts:
        raise ValueError(f"a batch of {settings.batch_size} cannot be split into {parts} parts")
    return settings.batch_size // parts


def _log_lines(log: Callable[[str], None]) -> "TrainerCallback":
    """Writes what the Trainer reports as `step 20: loss 0.61, learning_rate 3e-05`."""
    from transformers import TrainerCallback

    class LogLines(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            shown = ", ".join(f"{name} {value:.4g}" for name, value in (logs or {}).items())
            log(f"step {state.global_step}: {shown}")

    return LogLines()


def predict(trainer: "Trainer", split: Encoded) -> np.ndarray:
    """[N, num_labels] float32 outputs in the order of the samples.

    Samples go through the model sorted by length, so that little is padded. Raises ValueError
    if an output is not finite.
    """
    from torch.utils.data import Subset

    order = np.argsort(split.lengths, kind="stable")
    sorted_outputs = trainer.predict(Subset(split, order.tolist())).predictions
    if not np.isfinite(sorted_outputs).all():
        raise ValueError("the model's outputs are not finite: training diverged")
    outputs = np.empty_like(sorted_outputs, dtype=np.float32)
    outputs[order] = sorted_outputs
    return outputs


def training_history(trainer: "Trainer") -> list[dict[str, float]]:
    """Loss and learning rate over the steps."""
    names = ("step", "epoch", "loss", "learning_rate")
    lines = [line for line in trainer.state.log_history if "loss" in line]
    return [{name: line[name] for name in names} for line in lines]
