"""ExtremeBERT: from raw text to a GLUE submission with one command.

    python main.py --config configs/quickstart.yaml [KEY VALUE ...]

Exit codes: 0 done, 2 the config or the command line is wrong (nothing was touched), 3 a stage
failed or the GPUs are unusable, 130 interrupted. Imports the standard library only, until the
packages are installed.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

from pipeline.environment import (
    OLDEST_PYTHON,
    continue_inside_environment,
    enter_environment,
    environment_is_ready,
    inside_environment,
    install_command,
    missing_packages,
    was_reexecuted,
)

if __name__ == "__main__" and sys.version_info < OLDEST_PYTHON:
    enter_environment()  # or exits with a message: the imports below would fail

from pipeline import install
from pipeline.console import escape_unprintable, print_line
from pipeline.errors import ConfigError, StageError
from pipeline.privacy import print_crash
from pipeline.stage_plan import STAGE_NAMES
from pipeline.store.paths import log_path


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False,  # some options are passed on by name
        description="Runs install, dataset, pretrain, finetune and result_collection in order; "
        "what is up to date is left alone.",
        epilog="All keys: configs/defaults.py or docs/PIPELINE_CONFIG.md.",
    )
    parser.add_argument("--config", "--config_file", required=True, type=Path, metavar="YAML")
    parser.add_argument(
        "--stages",
        type=_stage_list,
        default=STAGE_NAMES,
        metavar="A,B",
        help=f"run just these of {','.join(STAGE_NAMES)}",
    )
    looks = parser.add_mutually_exclusive_group()
    looks.add_argument("--dry-run", action="store_true", help="print the plan, change nothing")
    looks.add_argument(
        "--status", action="store_true", help="print how far each stage is, also beside a run"
    )
    looks.add_argument(
        "--wait", action="store_true", help="wait for another run that is at work on the same"
    )
    parser.add_argument(
        "--force", action="append", default=[], choices=STAGE_NAMES, help="redo a stage"
    )
    parser.add_argument("--clear_cache", action="store_true", help="redo all stages of this config")
    parser.add_argument("--output-root", metavar="DIR", help="default: SYSTEM.OUTPUT_ROOT")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY VALUE", help="e.g. PRETRAIN.NUM_STEPS 1000"
    )
    return parser.parse_intermixed_args(arguments)


def _stage_list(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    unknown = [name for name in names if name not in STAGE_NAMES]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"unknown stage {', '.join(unknown)}, expected some of {','.join(STAGE_NAMES)}"
        )
    return names


def main(arguments: list[str]) -> int:
    escape_unprintable()
    options = parse_arguments(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):  # a scheduler's, and that of a lost terminal
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, signal.default_int_handler)
    try:
        # Path.is_file raises for very long names.
        if not (os.path.isfile(options.config) and os.access(options.config, os.R_OK)):
            expected = "expected a YAML file that can be read"
            raise ConfigError([f"--config: not a file, got {options.config}, {expected}"])
        if missing_packages():
            return _run_in_environment(options, arguments)
        _run_stages(options)
    except ConfigError as error:
        for problem in error.problems:
            print_line(problem, sys.stderr)
        return error.exit_code
    except StageError as error:
        return _report_failure(error)
    except KeyboardInterrupt:
        print_line("interrupted; the same command goes on from here", sys.stderr)
        return 130
    return 0


def _run_in_environment(options: argparse.Namespace, arguments: list[str]) -> int:
    """Continues in .venv, after making it if needed."""
    names = ", ".join(missing_packages())
    missing = f"missing packages: {names}"
    if inside_environment() or was_reexecuted() or not environment_is_ready():
        is_off = "install" not in options.stages or install.switched_off_in(
            options.config, options.overrides
        )
        if options.status:
            print_line(f"install: {'switched off' if is_off else 'not begun'}, {missing}")
            print_line("  the other stages can be looked at once it has run")
            return 0
        if is_off:
            raise StageError(
                f"{missing}; the install stage is not part of this run; "
                f"run `{install_command()}` first"
            )
        if options.dry_run:
            print_line(f"install: would run, {missing}")
            print_line("  the other stages can be planned once it has run")
            return 0
        print_line(f"install: running, {missing}")
        log = log_path(Path(options.output_root or "."), "install")
        if install.has_run():
            raise StageError(f"install.sh ran, still missing: {names}", log, "install")
        install.run_install_script(log, again=environment_is_ready())
    continue_inside_environment(arguments)
    return 3  # not reached


def _run_stages(options: argparse.Namespace) -> None:
    from configs.loading import load_config
    from pipeline.orchestrator import run_pipeline
    from pipeline.status_report import report_status
    from pretrain.start.completion import complete

    overrides = list(options.overrides)
    if options.output_root:
        overrides = ["SYSTEM.OUTPUT_ROOT", options.output_root, *overrides]
    config = load_config(options.config, overrides, options.stages, complete)
    if options.status:
        report_status(config, options.stages)
        return
    force = set(options.stages) - {"install"} if options.clear_cache else set(options.force)
    idle = sorted(force - set(options.stages))
    if idle:
        raise ConfigError([f"--force {idle[0]}: not among --stages {','.join(options.stages)}"])
    run_pipeline(config, options.stages, force, options.dry_run, options.wait)


def _report_failure(error: StageError) -> int:
    print_line(f"{error.stage or 'ExtremeBERT'} failed: {error.cause}", sys.stderr)
    if error.log:
        print_line(f"log: {error.log}", sys.stderr)
    return 3


if __name__ == "__main__":
    sys.excepthook = print_crash
    sys.exit(main(sys.argv[1:]))
