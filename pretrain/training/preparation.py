"""Builds a run from its flags, and exports its model."""

import errno
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from pipeline.store.disk import is_full
from pipeline.store.paths import CHECKPOINTS, METRICS, PHASES
from pipeline.store.record_files import read_json
from pretrain.engine.checkpoints import write_with_room
from pretrain.engine.deepspeed_config import zero_stage
from pretrain.engine.distributed import from_first_rank, rank, world_size
from pretrain.engine.engine import build_engine, compute_dtype
from pretrain.engine.precision import multiplies_in_bf16, resolve_precision, set_tf32
from pretrain.engine.zero_state import gather_weights, set_weights
from pretrain.kernels.linear import multiply_in_bf16
from pretrain.model.export import export_model
from pretrain.model.model_card import write_model_card
from pretrain.model.vocabulary import Vocabulary, find_tokenizer, read_vocabulary
from pretrain.optimization.batch_sizes import BatchSizes
from pretrain.optimization.lr_curves import LearningRateSchedule, curve_shape
from pretrain.optimization.masking_rate import MaskingRate, rate_of_run
from pretrain.optimization.optimizers import build_optimizer
from pretrain.settings import Settings
from pretrain.start.checkpoint_config import Start
from pretrain.start.checkpoint_weights import Loaded
from pretrain.start.continuation import continue_run
from pretrain.start.initial_model import InitialModel, build_initial_model, find_start
from pretrain.start.origin import origin_of
from pretrain.training.batch_fitting import fit_micro_batches
from pretrain.training.compiling import compile_if_possible
from pretrain.training.data_loader import (
    MicroBatch,
    PretrainDatasetProvider,
    Shard,
    check_ids,
    list_shards,
    sequence_length,
    validation_batches,
)
from pretrain.training.metrics_file import Log, SilentLog, read_metrics


@dataclass(frozen=True)
class Prepared:
    """The parts of a run. tokenizer: its folder. held_out: this rank's validation batches. engine:
    DeepSpeed's engine around the model. start: the checkpoint that the model comes from. loaded:
    its tensors, on rank 0. previous_loss: validation loss at the end of the phase before this one,
    None in the first phase and in a run that resumes."""

    settings: Settings
    tokenizer: Path
    provider: PretrainDatasetProvider
    held_out: list[MicroBatch]
    engine: Any
    schedule: LearningRateSchedule
    start: Start | None = None
    loaded: Loaded | None = None
    previous_loss: float | None = None


def prepare(args: Namespace, device: torch.device, log: Log) -> Prepared:
    """Reads the dataset and builds the engine around the initial model.

    args: the flags. Raises ValueError, OSError, KeyError or StageError for invalid flags or files.
    """
    shards = list_shards(Path(args.dataset_path), "train")
    paths = Path(args.dataset_path), args.tokenizer_name, Path(args.output_dir)
    vocabulary = read_vocabulary(from_first_rank(find_tokenizer(*paths) if rank() == 0 else None))
    check_ids(shards[0], vocabulary.size)
    set_tf32(args.allow_tf32)
    start = find_start(args.start_from, vocabulary)
    settings, rate = _complete_settings(args, vocabulary, start, shards, device, log)
    if args.tokenizer_name and Path(args.dataset_path) in vocabulary.directory.parents:
        log.say(f"the dataset's own tokenizer is used: {vocabulary.directory}")
    provider, held_out = _batches(Path(args.dataset_path), shards, settings, rate)
    training, tokenizer = settings.training, vocabulary.directory
    torch.manual_seed(training.seed)
    # DeepSpeed broadcasts the weights of rank 0. A resumed run may need them too, after damage to
    # all checkpoints.
    model, first_log = settings.model, log
    if args.continue_from:  # all weights come from the phase before
        model = replace(model, word_embedding_init="random", output_bias_init="zero")
        model = replace(model, vocabulary_transfer="random")
        first_log = SilentLog()
    seed, shards = training.seed, provider.shards
    initial = build_initial_model(model, seed, start, tokenizer, shards, first_log)
    engine = _build_engine(initial, settings, provider, device, log)
    previous_loss = None
    if args.continue_from:
        previous = Path(args.continue_from)
        previous_loss = continue_run(engine, settings, previous, tokenizer, log.say)
    schedule = LearningRateSchedule(
        engine.optimizer, training.lr, training.curve, curve_shape(training)
    )
    parts = (settings, tokenizer, provider, held_out, engine, schedule)
    return Prepared(*parts, start, initial.loaded, previous_loss)


def _complete_settings(
    args: Namespace,
    vocabulary: Vocabulary,
    start: Start | None,
    shards: list[Shard],
    device: torch.device,
    log: Log,
) -> tuple[Settings, MaskingRate | None]:
    """Completes the settings from data, checkpoint and machine; returns the masking rate too."""
    length = sequence_length(shards[0].path)
    found: dict[str, Any] = {"vocab_size": vocabulary.size}
    if start:
        found = start.model_values(args.model_type, vocabulary.size, length)
    if args.num_positions > length:
        found["num_positions"] = max(args.num_positions, found.get("num_positions", 0))
    asked = Settings.from_args(
        args, **found, special_ids=vocabulary.special_ids, max_seq_length=length
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
    initial: InitialModel,
    settings: Settings,
    provider: PretrainDatasetProvider,
    device: torch.device,
    log: Log,
):
    model = initial.model
    stage = zero_stage(
        settings.engine.zero_stage, settings.engine.precision, settings.engine.optimizer_type
    )
    is_rounded = stage > 0 and settings.engine.precision != "fp32"
    exact: dict[str, torch.Tensor] = {}
    if is_rounded and initial.loaded:
        exact = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.to(device)
    if settings.engine.multiplies_in_bf16:
        multiply_in_bf16(model)
    optimizer = build_optimizer(model, settings.training)
    engine = build_engine(settings.engine, model, optimizer, world_size())
    if is_rounded and initial.is_loaded:
        set_weights(engine, exact)
    if settings.engine.compile:
        dtype = compute_dtype(settings.engine.precision)
        compile_if_possible(engine, provider.batch(0)[0], dtype, log.say)
    return engine


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
    if prepared.loaded:
        weights |= prepared.loaded.kept

    origin = None
    if prepared.start and prepared.loaded:
        origin = origin_of(prepared.start.checkpoint, prepared.loaded.in_words())

    def write() -> None:
        export_model(weights, settings.model, prepared.tokenizer, folder)
        metrics = read_metrics(output_dir / METRICS)
        phases = (read_json(output_dir / PHASES) or {}).get("phases", [])
        write_model_card(folder, settings, dataset_path, metrics, origin, phases)

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
