"""Checks of a config: each value by its row, and values that contradict each other."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from configs.finetune_rules import problems_of_finetuning, problems_with_task_names
from configs.keys import KEYS, rows_of
from configs.phases import (
    merged_problems,
    phase_configs,
    problems_of_phases,
    problems_with_predictions,
)
from configs.predicates import cut, no_folder, shown
from configs.pretrain_rules import problems_of_pretraining


def problems_of_values(config: CfgNode, stages: Iterable[str] | None = None) -> list[str]:
    """Returns a line for each impossible value and each contradiction, in every phase.

    stages: those that will run, None for all; needs of the others are not checked.
    """
    running = {
        stage
        for stage in ("dataset", "pretrain", "finetune", "result_collection")
        if config[stage.upper()].ENABLED and (stages is None or stage in stages)
    }
    if problems := problems_of_phases(config):
        return [*problems, *_problems_of_phase(config, {}, running)]
    configs, phases = phase_configs(config), config.PRETRAIN.PHASES or [{}]
    by_phase = [
        _problems_of_phase(own, phase, running) for own, phase in zip(configs, phases, strict=True)
    ]
    problems = merged_problems(config, by_phase)
    problems += problems_with_task_names(config.FINETUNE)
    problems += _contradictions(config, running)
    if "finetune" in running:
        room = max(own.DATASET.MAX_SEQ_LENGTH for own in configs)
        problems += problems_of_finetuning(config, room)
    return problems


def _problems_of_phase(config: CfgNode, phase: Mapping[str, Any], running: set[str]) -> list[str]:
    """Returns the problems of a config of one phase. phase: its own keys."""
    problems = []
    for key, row, value in rows_of(config):
        if row.rule and not row.rule.test(value):
            got = f"got {shown(value)}, expected {row.rule.expected}"
            problems.append(f"{key}: value out of range, {got}")
    if not _can_be_a_folder(Path(config.SYSTEM.OUTPUT_ROOT)):
        problems.append(
            f"SYSTEM.OUTPUT_ROOT: not a folder that can be written to, got "
            f"{config.SYSTEM.OUTPUT_ROOT}, expected one that exists or can be made"
        )
    problems += problems_of_pretraining(config)
    problems += problems_of_samples(config.DATASET)
    problems += _problems_with_masking_rates(config.DATASET)
    problems += problems_with_predictions(config, phase)
    problems += _problems_with_weights(config.DATASET)
    if "dataset" in running:
        problems += _dataset_problems(config)
    return problems


def _can_be_a_folder(path: Path) -> bool:
    path = path.absolute()
    present = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
    return os.path.isdir(present) and os.access(present, os.W_OK)


def problems_of_samples(dataset: Mapping[str, Any]) -> Iterator[str]:
    """Yields a line for each contradiction between values of DATASET, by name of the key."""
    room, predictions = dataset["MAX_SEQ_LENGTH"] - 2, dataset["MAX_PREDICTIONS_PER_SEQ"]
    if predictions > room:
        yield (
            "DATASET.MAX_PREDICTIONS_PER_SEQ: more than a sample has tokens, got "
            f"{predictions}, expected at most DATASET.MAX_SEQ_LENGTH - 2 = {room}"
        )
    if dataset["PACKING"] and dataset["NEXT_SENTENCE_PREDICTION"]:
        yield (
            "DATASET.PACKING: cannot be combined with DATASET.NEXT_SENTENCE_PREDICTION, got both, "
            "expected one of them"
        )
    mask, random = dataset["MASK_TOKEN_SHARE"], dataset["RANDOM_TOKEN_SHARE"]
    if mask + random > 1:
        yield (
            f"DATASET.RANDOM_TOKEN_SHARE: more than all tokens, got {random} with "
            f"DATASET.MASK_TOKEN_SHARE {mask}, expected a sum of at most 1"
        )


def predictions_needed(rate: float, length: int) -> int:
    """Returns the most predictions in a sample of `length` tokens, [CLS] and [SEP] included."""
    return max(1, round(rate * (length - 2)))


def _problems_with_masking_rates(dataset: CfgNode) -> Iterator[str]:
    start, end = dataset.MASKED_LM_PROB, dataset.MASKED_LM_PROB_END
    if not 0 < end < 1:
        return
    if dataset.MASKING != "dynamic":
        yield (
            f"DATASET.MASKED_LM_PROB_END: needs masks drawn during training, got {end} with "
            f"DATASET.MASKING {dataset.MASKING}, expected DATASET.MASKING dynamic, or 0"
        )
    name, rate = ("MASKED_LM_PROB", start) if start > end else ("MASKED_LM_PROB_END", end)
    most, needed = dataset.MAX_PREDICTIONS_PER_SEQ, predictions_needed(rate, dataset.MAX_SEQ_LENGTH)
    if most < needed:
        yield (
            f"DATASET.MAX_PREDICTIONS_PER_SEQ: cuts off {1 - most / needed:.0%} of the predictions "
            f"of DATASET.{name} {rate}, got {most}, expected at least {needed}"
        )


def _problems_with_weights(dataset: CfgNode) -> Iterator[str]:
    sources = [" ".join(entry[:2]) for entry in dataset.HUGGINGFACE_DATASETS]
    sources += dataset.CUSTOMIZED_DATASETS
    if dataset.WEIGHTS and len(dataset.WEIGHTS) != len(sources):
        yield (
            f"DATASET.WEIGHTS: got {shown(dataset.WEIGHTS)}, expected {len(sources)}, one for each "
            f"source: {cut(', '.join(sources))}"
        )


def _contradictions(config: CfgNode, running: set[str]) -> Iterator[str]:
    """Yields a line if finetuning would not use the pretrained model."""
    model = config.FINETUNE.MODEL_NAME_OR_PATH
    if model and "pretrain" in running and running & {"finetune", "result_collection"}:
        yield (
            f"FINETUNE.MODEL_NAME_OR_PATH: got {model} with PRETRAIN.ENABLED True: one model would "
            "be pretrained and another one finetuned; expected PRETRAIN.ENABLED False (or --stages "
            f"finetune,result_collection) to finetune {model}, or an empty value to finetune the "
            "model pretrained here"
        )


def _dataset_problems(config: CfgNode) -> Iterator[str]:
    dataset, tokenizer = config.DATASET, config.TOKENIZER
    if not dataset.CUSTOMIZED_DATASETS and not dataset.HUGGINGFACE_DATASETS:
        yield (
            "DATASET.CUSTOMIZED_DATASETS: no text to train on, expected folders here or "
            "[name, subset] pairs in DATASET.HUGGINGFACE_DATASETS"
        )
    for folder in dataset.CUSTOMIZED_DATASETS:
        if folder != "builtin:python-docs" and not os.path.exists(folder):
            yield no_folder("DATASET.CUSTOMIZED_DATASETS", folder)
    name = tokenizer.NAME_OR_PATH
    if tokenizer.TRAIN and name != KEYS["TOKENIZER.NAME_OR_PATH"].default:
        yield (
            f"TOKENIZER.NAME_OR_PATH: got {name} with TOKENIZER.TRAIN True, which trains a "
            f"new tokenizer on the text; expected TOKENIZER.TRAIN False to use {name}, or no name"
        )
