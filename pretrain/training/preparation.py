"""Builds a run from its flags, and exports its model."""

import errno
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from pipeline.store.disk import is_full
from pipeline.store.paths import CHECKPOINTS, METRICS
from pretrain.engine.checkpoints import write_with_room
from pretrain.engine.distributed import from_first_rank, rank, world_size
from pretrain.engine.engine import build_engine, compute_dtype
from pretrain.engine.precision import multiplies_in_bf16, resolve_precision, set_tf32
from pretrain.engine.zero_state import gather_weights
from pretrain.kernels.linear import multiply_in_bf16
from pretrain.model.export import export_model
from pretrain.model.model import BasePretrainModel, build_model
from pretrain.model.model_card import write_model_card
from pretrain.model.vocabulary import Vocabulary, find_tokenizer, read_vocabulary
from pretrain.optimization.batch_sizes import BatchSizes
from pretrain.optimization.lr_curves import LearningRateSchedule, curve_shape
from pretrain.optimization.masking_rate import MaskingRate, rate_of_run
from pretrain.optimization.optimizers import build_optimizer
from pretrain.settings import ModelSettings, Settings
from pretrain.training.batch_fitting import fit_micro_batches
from pretrain.training.compiling import compile_if_possible
from pretrain.training.data_loader import (
    MicroBatch,
    PretrainDatasetProvider,
    Shard,
    check_ids,
    count_predictions,
    list_shards,
    one_copy,
    sequence_length,
    validation_batches,
)
from pretrain.training.metrics_file import Log, read_metrics
from pretrain.training.word_vectors import word_vectors


@dataclass(frozen=True)
class Prepared:
    """The parts of a run. tokenizer: its folder. held_out: this rank's validation batches. engine:
    DeepSpeed's engine around the model."""

    settings: Settings
    tokenizer: Path
    provider: PretrainDatasetProvider
    held_out: list[MicroBatch]
    engine: Any
    schedule: LearningRateSchedule


def prepare(args: Namespace, device: torch.device, log: Log) -> Prepared:
    """Reads the dataset and builds the engine around a newly initialised model.

    args: the flags. Raises ValueError, OSError, KeyError or StageError for invalid flags or files.
    """
    shards = list_shards(Path(args.dataset_path), "train")
    paths = Path(args.dataset_path), args.tokenizer_name, Path(args.output_dir)
    vocabulary = read_vocabulary(from_first_rank(find_tokenizer(*paths) if rank() == 0 else None))
    check_ids(shards[0], vocabulary.size)
    set_tf32(args.allow_tf32)
    settings, rate = _complete_settings(args, vocabulary, shards, device, log)
    if args.tokenizer_name and Path(args.dataset_path) in vocabulary.directory.parents:
        log.say(f"the dataset's own tokenizer is used: {vocabulary.directory}")
    provider, held_out = _batches(Path(args.dataset_path), shards, settings, rate)
    engine = _build_engine(settings, provider, device, log)
    training = settings.training
    schedule = LearningRateSchedule(
        engine.optimizer, training.lr, training.curve, curve_shape(training)
    )
    return Prepared(settings, vocabulary.directory, provider, held_out, engine, schedule)


def _complete_settings(
    args: Namespace, vocabulary: Vocabulary, shards: list[Shard], device: torch.device, log: Log
) -> tuple[Settings, MaskingRate | None]:
    """Completes the settings from the dataset and the machine; returns the masking rate too."""
    asked = Settings.from_args(
        args,
        vocab_size=vocabulary.size,
        special_ids=vocabulary.special_ids,
        max_seq_length=sequence_length(shards[0].path),
    )
    rate = rate_of_run(asked.training, [shard.path for shard in shards])
    model_type, stage = asked.model.model_type, asked.engine.zero_stage
    precision = resolve_precision(asked.engine.precision, device, model_type, stage)
    micro_batch, validation_micro_batch = fit_micro_batches(
        asked, precision, device, shards, log, rate
    )
    engine = replace(
        asked.engine,
        precision=precision,
        multiplies_in_bf16=multiplies_in_bf16(precision, device, model_type, stage),
        train_micro_batch_size_per_gpu=micro_batch,
        validation_micro_batch=validation_micro_batch,
    )
    return replace(asked, engine=engine), rate


def _batches(
    dataset_path: Path, shards: list[Shard], settings: Settings, rate: MaskingRate | None
) -> tuple[PretrainDatasetProvider, list[MicroBatch]]:
    """Returns the training batches and the held-out batches of this rank."""
    training, engine = settings.training, settings.engine
    ramp = training.batch_size_ramp_start, training.batch_size_ramp_steps
    sizes = BatchSizes(training.train_batch_size, *ramp)
    micro_batch, ranks = engine.train_micro_batch_size_per_gpu, (rank(), world_size())
    provider = PretrainDatasetProvider(
        shards, training.seed, sizes, micro_batch, *ranks, masking_rate=rate
    )
    if not training.do_validation:
        return provider, []
    held_out = list_shards(dataset_path, "test")
    samples, micro_batch = training.validation_samples, engine.validation_micro_batch
    return provider, validation_batches(held_out, samples, micro_batch, *ranks)


def _build_engine(
    settings: Settings, provider: PretrainDatasetProvider, device: torch.device, log: Log
):
    training = settings.training
    torch.manual_seed(training.seed)
    model = build_model(settings.model)
    # DeepSpeed broadcasts the weights of rank 0. A resumed run may need them too, after damage to
    # all checkpoints.
    if rank() == 0 and isinstance(model, BasePretrainModel):
        _initialize_from_data(model, settings.model, training.seed, provider.shards, log)
    model.to(device)
    if settings.engine.multiplies_in_bf16:
        multiply_in_bf16(model)
    optimizer = build_optimizer(model, training)
    engine = build_engine(settings.engine, model, optimizer, world_size())
    if settings.engine.compile:
        dtype = compute_dtype(settings.engine.precision)
        compile_if_possible(engine, provider.batch(0)[0], dtype, log.say)
    return engine


def _initialize_from_data(
    model: BasePretrainModel, settings: ModelSettings, seed: int, shards: list[Shard], log: Log
) -> None:
    texts, vocab_size = one_copy(shards), settings.vocab_size
    if settings.word_embedding_init == "cooccurrence":
        log.say("initialising word embeddings from token co-occurrence")
        never = settings.special_ids.values()
        vectors = word_vectors(texts, vocab_size, settings.hidden_size, never, seed)
        model.set_word_embeddings(vectors)
    if settings.output_bias_init == "frequencies":
        model.set_output_bias(count_predictions(texts, vocab_size))


def check_device(engine, device: torch.device) -> None:
    """Raises ValueError if weights are on another device; ZeRO-3 leaves empty tensors there."""
    elsewhere = {str(p.device) for p in engine.module.parameters() if p.numel()} - {str(device)}
    if elsewhere:
        raise ValueError(f"DeepSpeed has put weights on {', '.join(elsewhere)}, not on {device}")


def write_model(
    prepared: Prepared, dataset_path: Path, log: Log, folder: Path, is_last: bool = False
) -> None:
    """Exports the current model with its card. Raises OSError on all ranks if that fails.

    is_last: may delete old checkpoints on a full disk.
    """
    settings, output_dir = prepared.settings, Path(prepared.settings.training.output_dir)
    weights = gather_weights(prepared.engine)

    def write() -> None:
        export_model(weights, settings.model, prepared.tokenizer, folder)
        write_model_card(folder, settings, dataset_path, read_metrics(output_dir / METRICS))

    failure = None
    if rank() == 0:
        try:
            if is_last:
                write_with_room(write, "the model", output_dir / CHECKPOINTS, -1, log.warn)
            else:
                write()
        except (OSError, SafetensorError) as error:
            number = errno.ENOSPC if is_full(error) else getattr(error, "errno", None)
            failure = number, f"{folder} cannot be written: {error}"
    if failure := from_first_rank(failure):
        raise OSError(*failure)
