"""Flags of run_pretraining.py: the manual's, and one for every other key of MODEL and PRETRAIN.

A flag takes its name, default, help and check from the row of its key. A YAML file and a command
line mean the same.
"""

import argparse
from collections.abc import Sequence, Set
from typing import Any

from yacs.config import CfgNode

from configs.defaults import SECTIONS, get_default_config
from configs.keys import KEYS
from configs.manual import comments
from configs.pretrain_rules import problems_of_pretraining
from pipeline.errors import ConfigError
from pipeline.runtime.devices import DEVICE
from pretrain.start.completion import complete_model

SECTIONS_WITH_FLAGS = ("MODEL", "PRETRAIN")
PATHS = ("dataset_path", "output_dir")
LONGEST_ROW = 65535  # the most that DATASET.MAX_SEQ_LENGTH takes
EPOCH_FLAGS = ("validation_epochs", "validation_epochs_begin", "validation_epochs_end")


def flag_keys() -> dict[str, str]:
    """Returns `{flag: full key}` of all flags that set a key."""
    flags = {}
    for key, row in KEYS.items():
        section, _, name = key.partition(".")
        has_flag = section in SECTIONS_WITH_FLAGS if row.flag is None else row.flag != ""
        if has_flag:
            flags[row.flag or name.lower()] = key
    return flags


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_pretraining.py",
        usage="deepspeed pretrain/%(prog)s --dataset_path DIR --output_dir DIR [FLAG ...]",
        description="Pretrains a BERT; start it with the deepspeed launcher.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    _add_paths(parser.add_argument_group("paths and names"))
    _add_engine(parser.add_argument_group("engine"))
    sections = {key.partition(".")[0] for key in flag_keys().values()}
    groups = {name: parser.add_argument_group(name) for name in SECTIONS if name in sections}
    explained = comments()
    for flag, key in flag_keys().items():
        group = groups[key.partition(".")[0]]
        _add_key(group, flag, KEYS[key].default, f"{key}: {explained[key]}")
    return parser


def _add_key(group, flag: str, default: Any, text: str) -> None:
    kind: dict[str, Any] = {"type": type(default), "metavar": "X"}
    if isinstance(default, bool):
        kind = {"action": argparse.BooleanOptionalAction}
    elif isinstance(default, list):
        kind = {"type": list_of_numbers, "metavar": "A,B"}
    group.add_argument(f"--{flag}", default=default, help=text.replace("%", "%%"), **kind)


def list_of_numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",") if part.strip()]


def _device(text: str) -> str:
    if not DEVICE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected auto, cpu, cuda or cuda:NAMES")
    return text


def _add_paths(group) -> None:
    group.add_argument("--dataset_path", default="", help="folder of train_*.hdf5, test_*.hdf5")
    group.add_argument("--output_dir", default="", help="checkpoints, metrics.jsonl and model")
    group.add_argument(
        "--tokenizer_name",
        default="",
        help="tokenizer, by name or folder, for a dataset without one",
    )
    group.add_argument(
        "--continue_from",
        default="",
        metavar="DIR",
        help="output_dir of a finished run: begin with its weights and its optimizer's state, as "
        "the next phase of it",
    )
    group.add_argument(
        "--num_positions",
        type=int,
        default=0,
        metavar="N",
        help="positions of the model, if an earlier phase had longer rows than this one",
    )
    group.add_argument("--job_name", default="pretraining_experiment", help="name of the W&B run")
    group.add_argument("--progress_lines", action="store_true", help="machine-readable progress")
    group.add_argument(
        "--plot_lr",
        default="",
        metavar="FILE",
        help="draw the learning rate into this file, and exit",
    )


def _add_engine(group) -> None:
    for precision in ("fp16", "bf16"):
        group.add_argument(
            f"--{precision}",
            action="append_const",
            dest="half",
            const=precision,
            help=f"the same as --precision {precision}",
        )
    group.add_argument("--deepspeed", action="store_true", help="the only engine: always on")
    group.add_argument(
        "--data_loader_type",
        default="dist",
        choices=("dist",),
        help="each batch is divided among all ranks",
    )
    group.add_argument(
        "--device",
        type=_device,
        default="auto",
        metavar="D",
        help="cpu; cuda; cuda:2,GPU-ab: the GPUs of all ranks of this machine, as in "
        "CUDA_VISIBLE_DEVICES; auto: DS_ACCELERATOR, or a GPU if the system lists one",
    )
    group.add_argument("--local_rank", type=int, default=0, help="set by the launcher")


def parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    """Returns the flags as a namespace. Exits with code 2 and the flags' names if they cannot work.

    The manual's validation_epochs flags decide when to validate if any of them is given and
    validation_steps is not.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    given = {word.partition("=")[0] for word in argv}
    half = set(args.half or ())
    if len(half) + ("--precision" in given) > 1:
        parser.error("--fp16, --bf16 and --precision exclude each other")
    args.precision = next(iter(half), args.precision)
    del args.half
    if "--validation_steps" not in given and given & {f"--{flag}" for flag in EPOCH_FLAGS}:
        args.validation_steps = 0
    problems = _problems(args, given)
    if not args.plot_lr:
        problems += [f"--{name} is needed" for name in PATHS if not getattr(args, name)]
    if problems:
        parser.error("; ".join(problems))
    return args


def _problems(args: argparse.Namespace, given: Set[str]) -> list[str]:
    """Returns the problems of the flags' keys, with the names of the flags.

    Sets those of the model that --start_from decides. given: words of the command line.
    """
    config, problems = get_default_config(), []
    config.DATASET.MAX_SEQ_LENGTH = LONGEST_ROW  # its files say how long they are
    for flag, key in flag_keys().items():
        section, _, name = key.partition(".")
        config[section][name] = value = getattr(args, flag)
        rule = KEYS[key].rule
        if rule and not rule.test(value):
            problems.append(f"--{flag}: got {value!r}, expected {rule.expected}")
    if problems:
        return problems
    try:
        problems = _complete(args, config, given)
    except ConfigError as error:
        problems = error.problems
    return [_in_flags(problem) for problem in problems or problems_of_pretraining(config)]


def _complete(args: argparse.Namespace, config: CfgNode, given: Set[str]) -> list[str]:
    """Sets the flags of the model from its checkpoint; returns their contradictions."""
    keys = flag_keys()
    written = {keys[flag] for flag in keys if given & {f"--{flag}", f"--no-{flag}"}}
    problems = complete_model(config, written)
    for flag, key in keys.items():
        section, _, name = key.partition(".")
        if section == "MODEL":
            setattr(args, flag, config.MODEL[name])
    return problems


def _in_flags(problem: str) -> str:
    """Replaces keys by their flags, long keys first, as some begin with another one."""
    for flag, key in sorted(flag_keys().items(), key=lambda pair: -len(pair[1])):
        problem = problem.replace(key, f"--{flag}")
    return problem
