"""The command line of pretraining.

deepspeed pretrain/run_pretraining.py --dataset_path data/my --output_dir out --max_steps 1000 ...

Runs on every rank that the launcher starts. Resumes from the newest checkpoint in output_dir and
writes checkpoints/, metrics.jsonl and model/, a Hugging Face folder, there. Exit codes: 0 success;
2 wrong flags or input files, or a GPU that torch cannot use; 75 out of memory, where the next start
of the same command takes half the micro batch; 130 and 143 interrupted by SIGINT and SIGTERM, with
a checkpoint saved.
"""

import os
import signal
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path

if __name__ == "__main__":  # import from the repository, not from this folder
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
        # The launcher, and the runner or the pipeline above it: either could be killed alone.
        for process in (os.getppid(), parent_of(os.getppid())):
            end_with(process, signal.SIGTERM)
    if not lists_gpus():
        spin_briefly()
    number = int(os.environ.get("RANK", "0"))
    with ExitStack() as held:
        try:
            _claim_output(args, number, held)  # may wait for other runs, until a signal
            return _train(args, number)
        except (InputError, StageError) as error:
            print_line(f"run_pretraining.py: error: {error}", sys.stderr)
            return 2
        except KeyboardInterrupt:
            return 128 + signal.SIGINT


def _train(args: Namespace, number: int) -> int:
    """Trains as rank `number`, in a claimed output_dir. Returns the exit code."""
    from pretrain.engine.distributed import leave_ranks, rank, start_ranks
    from pretrain.engine.interrupts import Interrupted
    from pretrain.engine.memory_limits import OutOfMemory
    from pretrain.engine.watchdog import Patience, stacks_when_silent

    code = 0
    with stacks_when_silent(number, Patience()) as alive:  # watches the start of torch, too
        try:
            device = start_ranks()
            log = _open_log(args, is_silent=rank() != 0)
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
    """Prints the traceback. Returns the exit code."""
    from pipeline.privacy import print_crash

    print_crash(type(error), error, error.__traceback__)
    sys.stderr.flush()
    if "pretrain.engine.distributed" in sys.modules:
        from pretrain.engine.distributed import wait_for_earlier_death

        wait_for_earlier_death()
    return 1


def _leave_short_of_memory(args: Namespace, shortage) -> int:
    """Prints a line on the next start, for the stage to find. Returns the exit code."""
    from pretrain.engine.memory_limits import EXIT_CODE, lower_limit

    if next_start := lower_limit(Path(args.output_dir), shortage.size):
        print(f"run_pretraining.py: {shortage}; {next_start}", file=sys.stderr)
        return EXIT_CODE
    print(
        f"run_pretraining.py: error: {shortage}: not even one sample fits; gradient_checkpointing, "
        "a higher zero_stage on more GPUs, or a smaller model need less memory",
        file=sys.stderr,
    )
    return 1


class InputError(Exception):
    """The flags or their files do not make a run."""


def _claim_output(args: Namespace, number: int, held: ExitStack) -> None:
    """Claims output_dir, so that its old checkpoints may be deleted, and locks it until `held` is
    closed. number: of this rank.

    Raises InputError if the folder holds foreign files, or another run has locked it.
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
    """Pretrains with these flags on a device. log: rank 0's log, or a silent one.

    interrupts, watch and alive are those of `train`. A signal that comes before there is anything
    to save ends this process at once, even in a collective. Raises InputError if the flags do not
    make a run, or not the one that output_dir holds, and the exceptions of `train`.
    """
    from pipeline.errors import StageError
    from pretrain.checkpoint_folders import OtherSchedule
    from pretrain.engine.interrupts import caught
    from pretrain.loop import train
    from pretrain.start.first_loss import measure_first_loss
    from pretrain.training.preparation import check_device, prepare, write_model

    try:
        prepared = prepare(args, device, log)
        check_device(prepared.engine, device)
    except (ValueError, OSError, KeyError, StageError) as error:
        raise InputError(str(error)) from error
    dataset_path, engine = Path(args.dataset_path), prepared.engine

    def export(folder: Path) -> None:
        write_model(prepared, dataset_path, log, folder)

    with prepared.provider, nullcontext(interrupts) if interrupts else caught() as noted:

        def look(run) -> None:
            measure_first_loss(prepared, run, noted)
            if watch:
                watch(run)

        try:
            train(
                prepared.settings,
                0,
                engine,
                engine.optimizer,
                prepared.schedule,
                prepared.provider,
                prepared.held_out,
                log,
                export,
                noted,
                look,
                alive,
            )
        except OtherSchedule as error:
            raise InputError(str(error)) from error
        write_model(prepared, dataset_path, log, Path(args.output_dir) / "model", is_last=True)


def _plot_lr(args: Namespace) -> int:
    from pretrain.optimization.lr_curves import curve_shape
    from pretrain.optimization.lr_plot import plot_lr
    from pretrain.settings import TrainingSettings

    unit, total = {
        "step": ("steps", args.max_steps),
        "time": ("hours", args.total_training_time),
        "tokens": ("tokens", args.max_tokens),
    }[args.lr_schedule]
    settings = TrainingSettings.from_args(args)
    plot_lr(args.curve, curve_shape(settings), args.lr, Path(args.plot_lr), unit, total)
    print(args.plot_lr)
    return 0


def _open_log(args: Namespace, is_silent: bool):
    from pipeline.store.paths import METRICS
    from pretrain.optimization.budget import progress_unit
    from pretrain.training import metrics_file

    if is_silent:
        return metrics_file.SilentLog()
    output_dir = Path(args.output_dir)
    wandb_run = metrics_file.start_wandb(
        args.wandb_mode, args.project_name, args.job_name, output_dir, vars(args)
    )
    tensorboard = metrics_file.start_tensorboard(args.tensorboard, output_dir)
    bar = None
    if not args.progress_lines:
        length = (args.lr_schedule, args.max_steps, args.total_training_time, args.max_tokens)
        bar = metrics_file.ProgressBar(output_dir / "pretrain.log", *progress_unit(*length))
    path = output_dir / METRICS
    return metrics_file.MetricsLog(path, wandb_run, tensorboard, bar)


if __name__ == "__main__":
    from pipeline.privacy import print_crash, private_files

    sys.excepthook = print_crash
    with private_files():
        try:
            exit_code = main(sys.argv[1:])
        except Exception as error:
            exit_code = _fail(error)
    # A thread of gloo may hold the tensor of the last exchange, and needs Python to release it: if
    # Python were shutting down, a rank would die of SIGABRT after all its work. A rank that failed
    # would wait for NCCL, and the other ranks for it.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
