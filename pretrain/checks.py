"""Checks of this machine for pretraining."""

import importlib.util
import os
import re
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError
from pretrain.engine.deepspeed_config import conflicts, read_user_config
from pretrain.engine.hostfile import is_this_machine, read_hostfile
from pretrain.engine.placement import Placement, place_ranks
from pretrain.flags import flag_keys
from pretrain.model.model_types import OWN_TYPE, check_model_type
from pretrain.plan import PretrainPlan
from pretrain.start.checkpoint_config import Checkpoint, Start
from pretrain.start.completion import checkpoint_of, problems_of_vocabulary

if TYPE_CHECKING:
    from yacs.config import CfgNode

PLAIN_WORDS = re.compile(r"[\w@+=:,./ -]*")


def check_machine(config: "CfgNode", plan: PretrainPlan | None = None) -> None:
    """Raises ConfigError for everything that would stop the run at its start on this machine."""
    place = place_ranks(config)
    ranks = place.num_ranks
    smallest = config.PRETRAIN.BATCH_SIZE_RAMP_START or config.PRETRAIN.BATCH_SIZE
    problems = []
    if smallest % ranks:
        key = "BATCH_SIZE_RAMP_START" if config.PRETRAIN.BATCH_SIZE_RAMP_START else "BATCH_SIZE"
        problems.append(
            f"PRETRAIN.{key}: cannot be shared out, got {smallest}, expected a multiple of "
            f"the {ranks} {'GPUs' if place.on_gpus else 'processes'}"
        )
    problems += _precision_problems(config, place)
    checkpoint = plan.checkpoint if plan else checkpoint_of(config)
    problems += _type_problems(config, checkpoint)
    if checkpoint:
        problems += problems_of_vocabulary(config, checkpoint)
    problems += _deepspeed_problems(config.PRETRAIN.DEEPSPEED_CONFIG)
    problems += _logging_problems(config)
    problems += _shell_problems(config)
    if problems:
        raise ConfigError(problems)


def _precision_problems(config: "CfgNode", place: Placement) -> Iterator[str]:
    emulating = [gpu.name for gpu in place.gpus if not gpu.computes_in_bf16]
    if config.PRETRAIN.PRECISION == "bf16" and emulating:
        yield (
            f"PRETRAIN.PRECISION: {emulating[0]} only emulates bf16, got bf16, expected fp16 "
            "(as auto takes)"
        )


def _shell_problems(config: "CfgNode") -> Iterator[str]:
    """Yields values with special characters: DeepSpeed passes them to a shell on other servers."""
    hostfile = config.SYSTEM.HOSTFILE
    if not hostfile or is_this_machine(read_hostfile(Path(hostfile))):
        return
    for key in ("SYSTEM.OUTPUT_ROOT", *flag_keys().values()):
        section, _, name = key.partition(".")
        value = config[section][name]
        if isinstance(value, str) and not PLAIN_WORDS.fullmatch(value):
            yield (
                f"{key}: a shell of the servers in SYSTEM.HOSTFILE would read it, got {value!r}, "
                "expected letters, digits, spaces and any of @ + = : , . / _ -"
            )


def _type_problems(config: "CfgNode", checkpoint: Checkpoint | None) -> Iterator[str]:
    """Yields problems with MODEL.TYPE; builds architectures of transformers without weights."""
    model = config.MODEL
    if model.TYPE == OWN_TYPE:
        return
    try:
        check_model_type(model.TYPE)
        from pretrain.model.transformers_model import check_config

        settings = {key.lower(): model[key] for key in model}
        length, vocab_size = config.DATASET.MAX_SEQ_LENGTH, config.TOKENIZER.VOCAB_SIZE
        found: dict[str, Any] = {"vocab_size": vocab_size}
        if checkpoint:
            found = Start(checkpoint, True).model_values(model.TYPE, vocab_size, length)
        check_config(
            Namespace(
                **settings,
                **found,
                model_type=model.TYPE,
                max_seq_length=length,
                gradient_checkpointing=config.PRETRAIN.GRADIENT_CHECKPOINTING,
                special_ids={"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
            )
        )
    except ValueError as error:
        flag, _, problem = str(error).partition(": ")
        yield f"{flag_keys()[flag]}: {problem}"


def _deepspeed_problems(path: str) -> Iterator[str]:
    """Yields problems with the user's DeepSpeed JSON."""
    if not path:
        return
    try:
        user = read_user_config(Path(path))
    except ValueError as error:
        yield f"PRETRAIN.DEEPSPEED_CONFIG: {error}"
        return
    keys = flag_keys()
    for setting, flag in conflicts(user):
        yield (
            f"PRETRAIN.DEEPSPEED_CONFIG: {path} sets {setting}, which {keys[flag]} decides; "
            "take it out of the JSON"
        )


def _logging_problems(config: "CfgNode") -> Iterator[str]:
    mode = config.WANDB.MODE
    if mode != "disabled" and importlib.util.find_spec("wandb") is None:
        yield (
            f"WANDB.MODE: wandb is not installed, got {mode}; "
            f"run {sys.executable} -m pip install -r requirements-wandb.txt"
        )
    if mode == "online" and not (config.WANDB.API_KEY or os.environ.get("WANDB_API_KEY")):
        yield "WANDB.MODE: no key, got online, expected WANDB_API_KEY in the environment"
    if config.PRETRAIN.TENSORBOARD and importlib.util.find_spec("tensorboard") is None:
        yield (
            "PRETRAIN.TENSORBOARD: tensorboard is not installed, got True; "
            f"run {sys.executable} -m pip install -r requirements-tensorboard.txt"
        )
