"""The command line of pretraining.

deepspeed pretrain/run_pretraining.py --dataset_path data/my --output_dir out --max_steps 1000 ...

Runs on every rank that the launcher starts. Goes on from the newest checkpoint in output_dir and
leaves there checkpoints/, metrics.jsonl and model/, a Hugging Face folder. Exit codes: 0 done,
2 the flags or what they name are wrong, or torch cannot use the GPU, 75 out of memory, and the same
command takes half the micro batch, 130 and 143 interrupted by SIGINT and SIGTERM, with a checkpoint
saved.
"""

import os
import signal
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path

if __name__ == "__main__":  # imports are those of the repository, not of this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from pipeline.environment import enter_environment

    enter_environment()


def main(argv: Sequence[str]) -> int:
    """Parses the flags, joins the ranks, trains and exports. Returns the exit code."""
    from pipeline.console import print_line
    from pipeline.errors import StageError
    from pipeline.runtime.devices import lists_gpus, take_device
    from pipeline.runtime.processes import end_with, exit_with_parent, parent_of
    from pretrain.flags import parse_flags
    from pretrain.kernels.cpu_settings import spin_briefly

    args = parse_flags(argv)
    if args.plot_lr:
        return _plot_lr(args)
    take_device(args.device)
    exit_with_parent()
    if "LOCAL_RANK" in os.environ:
        # Started by the launcher's launcher. Only the latter passes a signal on that ends it.
        end_with(parent_of(os.getppid()), signal.SIGTERM)
    if not lists_gpus():
        spin_briefly()
    number = int(os.environ.get("RANK", "0"))
    with ExitStack() as held:
        try:
            _claim_output(args, number, held)  # may wait for others; a signal ends that at once
            return _train(args, number)
        except (InputError, StageError) as error:
            print_line(f"run_pretraining.py: error: {error}", sys.stderr)
            return 2
        except KeyboardInterrupt:
            return 128 + signal.SIGINT


def _train(args: Namespace, number: int) -> int:
    """As rank `number`, in a folder that is ours. Returns the exit code."""
    from pretrain.engine.distributed import leave_ranks, rank, start_ranks
    from pretrain.engine.interrupts import Interrupted
    from pretrain.engine.memory_limits import OutOfMemory
    from pretrain.engine.watchdog import Patience, stacks_when_silent

    code = 0
    # Torch is to be watched, too, while it starts.
    with stacks_when_silent(number, Patience()) as alive:
        try:
            device = start_ranks()
            log = _open_log(args) if rank() == 0 else _silent_log()
            try:
                run(args, device, log, alive=alive)
            finally:
                log.close()
        except Interrupted as interrupted:
            code = interrupted.exit_code
        except OutOfMemory as shortage:
            return _leave_short_of_memory(args, shortage)
        leave_ranks()
    return code


def _fail(error: Exception) -> int:
    """Prints what Python would print. Returns the exit code."""
    from pipeline.privacy import print_crash

    print_crash(type(error), error, error.__traceback__)
    sys.stderr.flush()
    if "pretrain.engine.distributed" in sys.modules:
        from pretrain.engine.distributed import let_the_first_to_end_be_seen

        let_the_first_to_end_be_seen()
    return 1


def _leave_short_of_memory(args: Namespace, shortage) -> int:
    """Says in one line, which the stage looks for, what comes next; returns the exit code."""
    from pretrain.engine.memory_limits import EXIT_CODE, lower_limit

    if comes_next := lower_limit(Path(args.output_dir), shortage.size):
        print(f"run_pretraining.py: {shortage}; {comes_next}", file=sys.stderr)
        return EXIT_CODE
    print(
        f"run_pretraining.py: error: {shortage}: not even one sample fits; gradient_checkpointing, "
        "a higher zero_stage on more GPUs, or a smaller model need less memory",
        file=sys.stderr,
    )
    return 1


class InputError(Exception):
    """The flags, or the files that they name, make no run."""


def _claim_output(args: Namespace, number: int, held: ExitStack) -> None:
    """Leaves a record in output_dir, where old checkpoints and models are deleted, and keeps other
    runs away until `held` is closed. number: of this rank.

    Raises InputError if it holds something that is not this program's, or another run is at work.
    """
    from pipeline.console import print_line
    from pipeline.errors import ConfigError, StageError
    from pipeline.store.artifacts import Artifact
    from pipeline.store.ownership import worked_on

    output_dir = Path(args.output_dir)
    try:
        Artifact("pretrain", output_dir, {}, user_named="--output_dir").claim()
        held.enter_context(worked_on(output_dir, number, print_line))
    except (ConfigError, StageError, OSError) as error:
        raise InputError(str(error)) from error


def run(args: Namespace, device, log, interrupts=None, watch=None, alive=lambda: None) -> None:
    """Pretrains with these flags on a device; `log` is rank 0's or a silent one.

    interrupts, watch and alive are `train`'s. A signal that comes before there is anything to save
    ends this process at once, even in a collective. Raises InputError if there is nothing to train,
    or not with these flags, and what `train` does.
    """
    from pipeline.errors import StageError
    from pretrain.engine.interrupts import caught
    from pretrain.loop import train

    try:
        vocabulary, provider, held_out = _read_data(args, device, log)
        engine, schedule = _build(args, device, provider, log)
        check_device(engine, device)
    except (ValueError, OSError, KeyError, StageError) as error:
        raise InputError(str(error)) from error

    def export(folder: Path) -> None:
        _export(args, engine, vocabulary, log, folder)

    with provider, nullcontext(interrupts) if interrupts else caught() as noted:
        train(
            *(args, 0, engine, engine.optimizer, schedule, provider, held_out),
            *(log, export, noted, watch, alive),
        )
        _export(args, engine, vocabulary, log, Path(args.output_dir) / "model", is_last=True)


def _read_data(args: Namespace, device, log):
    """The vocabulary, the batches of this rank, and its share of the held-out samples."""
    from pretrain.engine.distributed import rank, world_size
    from pretrain.optimization.batch_sizes import BatchSizes
    from pretrain.training.data_loader import PretrainDatasetProvider, list_shards

    shards = list_shards(Path(args.dataset_path), "train")
    vocabulary = _complete_args(args, shards, device, log)
    provider = PretrainDatasetProvider(
        shards,
        args.seed,
        BatchSizes(args.train_batch_size, args.batch_size_ramp_start, args.batch_size_ramp_steps),
        args.train_micro_batch_size_per_gpu,
        rank(),
        world_size(),
    )
    return vocabulary, provider, _held_out(args) if args.do_validation else []


def _complete_args(args: Namespace, shards, device, log):
    """Adds what the dataset and the machine decide to the flags; says what it did."""
    from pretrain.engine.distributed import from_first_rank, rank
    from pretrain.engine.precision import multiplies_in_bf16, resolve_precision, set_tf32
    from pretrain.model.vocabulary import find_tokenizer, read_vocabulary
    from pretrain.training.data_loader import check_ids, sequence_length
    from pretrain.training.micro_batches import fit_micro_batches

    output_dir, dataset_path = Path(args.output_dir), Path(args.dataset_path)
    if rank() == 0:
        directory = find_tokenizer(dataset_path, args.tokenizer_name, output_dir)
    vocabulary = read_vocabulary(from_first_rank(directory if rank() == 0 else None))
    args.vocab_size, args.special_ids = vocabulary.size, vocabulary.special_ids
    check_ids(shards[0], vocabulary.size)
    args.max_seq_length = sequence_length(shards[0].path)
    set_tf32(args.allow_tf32)
    precision = resolve_precision(args.precision, device, args.model_type, args.zero_stage)
    fit_micro_batches(args, precision, device, shards, log)
    args.precision = precision
    args.multiplies_in_bf16 = multiplies_in_bf16(args, device)
    if args.tokenizer_name and dataset_path in vocabulary.directory.parents:
        log.say(f"the dataset's own tokenizer is used: {vocabulary.directory}")
    return vocabulary


def _held_out(args: Namespace):
    from pretrain.engine.distributed import rank, world_size
    from pretrain.training.data_loader import list_shards, validation_batches

    return validation_batches(
        list_shards(Path(args.dataset_path), "test"),
        args.validation_samples,
        args.validation_micro_batch,
        rank(),
        world_size(),
    )


def _build(args: Namespace, device, provider, log):
    """The engine around a freshly initialised model, and the learning rate schedule."""
    import torch

    from pretrain.engine.distributed import rank, world_size
    from pretrain.engine.engine import build_engine, compute_dtype
    from pretrain.kernels.linear import multiply_in_bf16
    from pretrain.model.model import build_model
    from pretrain.optimization.lr_curves import LearningRateSchedule, curve_shape
    from pretrain.optimization.optimizers import build_optimizer
    from pretrain.training.compiling import compile_if_possible

    torch.manual_seed(args.seed)
    model = build_model(args)
    if rank() == 0:  # in a run that goes on too, whose checkpoints may be damaged, all of them
        _initialize_from_data(args, model, provider.shards, log)
    model.to(device)
    if args.multiplies_in_bf16:
        multiply_in_bf16(model)
    engine = build_engine(args, model, build_optimizer(model, args), world_size())
    if args.compile:
        compile_if_possible(engine, provider.batch(0)[0], compute_dtype(args.precision), log.say)
    return engine, LearningRateSchedule(engine.optimizer, args.lr, args.curve, curve_shape(args))


def check_device(engine, device) -> None:
    """ValueError if weights of the engine are elsewhere; partitioned ones are of no size."""
    elsewhere = {str(p.device) for p in engine.module.parameters() if p.numel()} - {str(device)}
    if elsewhere:
        raise ValueError(f"DeepSpeed has put weights on {', '.join(elsewhere)}, not on {device}")


def _initialize_from_data(args: Namespace, model, shards, log) -> None:
    """What the data itself can tell, of our model, before any training; other ranks get it too."""
    from pretrain.model.model import OWN_TYPE
    from pretrain.training.data_loader import count_predictions, one_copy
    from pretrain.training.word_vectors import word_vectors

    if args.model_type != OWN_TYPE:
        return
    texts = one_copy(shards)
    if args.word_embedding_init == "cooccurrence":
        log.say("making word embeddings from what stands near what")
        never = args.special_ids.values()
        vectors = word_vectors(texts, args.vocab_size, args.hidden_size, never, args.seed)
        model.set_word_embeddings(vectors)
    if args.output_bias_init == "frequencies":
        model.set_output_bias(count_predictions(texts, args.vocab_size))


def _export(args: Namespace, engine, vocabulary, log, folder: Path, is_last: bool = False) -> None:
    """Writes the model as it is. Raises OSError, on all ranks, if it cannot be written."""
    import errno

    from safetensors import SafetensorError

    from pipeline.store.disk import is_full
    from pretrain.engine.checkpoints import write_with_room
    from pretrain.engine.distributed import from_first_rank, rank
    from pretrain.engine.zero_state import gather_weights
    from pretrain.loop import CHECKPOINTS, METRICS
    from pretrain.model.export import export_model
    from pretrain.model.model_card import write_model_card
    from pretrain.training.metrics_file import read_metrics

    weights = gather_weights(engine)

    def write() -> None:
        export_model(weights, args, vocabulary.directory, vocabulary.special_ids, folder)
        metrics = read_metrics(Path(args.output_dir) / METRICS)
        write_model_card(folder, args, Path(args.dataset_path), metrics)

    failure, checkpoints = None, Path(args.output_dir) / CHECKPOINTS
    if rank() == 0:
        try:
            if is_last:  # worth more than old checkpoints
                write_with_room(write, "the model", checkpoints, -1, log.warn)
            else:
                write()
        except (OSError, SafetensorError) as error:
            number = errno.ENOSPC if is_full(error) else getattr(error, "errno", None)
            failure = number, f"{folder} cannot be written: {error}"
    if failure := from_first_rank(failure):  # all ranks end, or all of them go on
        raise OSError(*failure)


def _plot_lr(args: Namespace) -> int:
    from pretrain.optimization.lr_curves import curve_shape
    from pretrain.optimization.lr_plot import plot_lr

    unit, total = {
        "step": ("steps", args.max_steps),
        "time": ("hours", args.total_training_time),
        "tokens": ("tokens", args.max_tokens),
    }[args.lr_schedule]
    plot_lr(args.curve, curve_shape(args), args.lr, Path(args.plot_lr), unit, total)
    print(args.plot_lr)
    return 0


def _open_log(args: Namespace):
    from pretrain.loop import METRICS
    from pretrain.optimization.budget import progress_unit
    from pretrain.training.metrics_file import (
        MetricsLog,
        ProgressBar,
        start_tensorboard,
        start_wandb,
    )

    output_dir = Path(args.output_dir)
    wandb_run = start_wandb(
        args.wandb_mode, args.project_name, args.job_name, output_dir, vars(args)
    )
    tensorboard = start_tensorboard(args.tensorboard, output_dir)
    bar = None
    if not args.progress_lines:
        length = (args.lr_schedule, args.max_steps, args.total_training_time, args.max_tokens)
        bar = ProgressBar(output_dir / "pretrain.log", *progress_unit(*length))
    return MetricsLog(output_dir / METRICS, wandb_run, tensorboard, bar)


def _silent_log():
    from pretrain.training.metrics_file import SilentLog

    return SilentLog()


if __name__ == "__main__":
    from pipeline.privacy import print_crash, private_files

    sys.excepthook = print_crash
    with private_files():
        try:
            exit_code = main(sys.argv[1:])
        except Exception as error:
            exit_code = _fail(error)
    # A thread of gloo's may hold the tensor of the last exchange, and need Python to let go of it.
    # If that were being taken down then, the rank would die of SIGABRT after all its work. One that
    # failed would wait for NCCL, and the other ranks for it.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
