"""Checks of this machine for the dataset stage."""

import math
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from dataset.plan import DatasetPlan
from dataset.tokenizers.build import check_building, tokenizer_bytes
from dataset.tokenizers.vocabulary_training import TRAINING_BYTES
from dataset.workers import MAIN_PROCESS_GB, SampleFiles, plan_work
from pipeline.errors import ConfigError, StageError

if TYPE_CHECKING:
    from yacs.config import CfgNode

MAX_SHARDS = 4096  # without a configured number


def check_machine(config: "CfgNode", plan: DatasetPlan) -> None:
    """Raises ConfigError if the memory does not suffice, or the tokenizer cannot be built."""
    memory, tokenizer = config.SYSTEM.MAX_MEMORY_IN_GB, config.TOKENIZER
    files = replace(
        most_sample_files(config.DATASET),
        tokenizer_bytes=0 if tokenizer.TRAIN else tokenizer_bytes(tokenizer.NAME_OR_PATH),
    )
    plan_work(config.SYSTEM.NUM_WORKERS, memory, files)
    needed = MAIN_PROCESS_GB + TRAINING_BYTES / 1e9
    if tokenizer.TRAIN and memory < needed - 1e-9:
        raise ConfigError(
            [
                "SYSTEM.MAX_MEMORY_IN_GB: too little for TOKENIZER.TRAIN, got "
                f"{memory:g}, expected at least {math.ceil(needed * 100) / 100:g}"
            ]
        )
    if not tokenizer.TRAIN and os.path.exists(os.path.expanduser(tokenizer.NAME_OR_PATH)):
        try:
            check_building(tokenizer.NAME_OR_PATH, tokenizer.DO_LOWER_CASE, tokenizer.ACCENTS)
        except StageError as error:
            raise ConfigError([error.cause]) from error


def most_sample_files(dataset: "CfgNode") -> SampleFiles:
    """Returns the upper limit of the number of sample files."""
    copies = dataset.DUP_FACTOR if dataset.MASKING == "static" else 1
    num_train_shards = dataset.NUM_TRAIN_SHARDS or MAX_SHARDS
    total = num_train_shards * copies + (dataset.NUM_TEST_SHARDS or MAX_SHARDS)
    return SampleFiles(total, copies)
