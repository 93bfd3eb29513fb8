"""What the values of a config must satisfy, key by key and across keys."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from configs.defaults import get_default_config
from configs.finetune_rules import (
    FINETUNE_RULES,
    finetune_rules_of,
    problems_of_finetuning,
    problems_of_search,
)
from configs.predicates import (
    BUILTIN,
    FILE_NAME,
    PATH,
    SEED,
    Rule,
    above,
    at_least,
    between,
    each,
    from_to,
    inside,
    is_text,
    no_folder,
    one_of,
    shown,
)
from configs.pretrain_rules import PRETRAIN_RULES, problems_of_pretraining

PATH_KEYS = (
    "SYSTEM.OUTPUT_ROOT",
    "SYSTEM.HOSTFILE",
    "PRETRAIN.DEEPSPEED_CONFIG",
    "TOKENIZER.NAME_OR_PATH",
    "FINETUNE.GLUE_DIR",
    "FINETUNE.SUPERGLUE_DIR",
    "FINETUNE.MODEL_NAME_OR_PATH",
)
MAX_SOURCES = 1000  # each is compared with each

RULES: dict[str, Rule] = {
    **dict.fromkeys(PATH_KEYS, PATH),
    "SYSTEM.NUM_GPUS": at_least(-1),
    "SYSTEM.MAX_MEMORY_IN_GB": above(0),
    "SYSTEM.NUM_WORKERS": at_least(0),
    "SYSTEM.DASK_SCHEDULER": (
        lambda value: not value or re.fullmatch(r"[a-z]+://[^\s/]+:\d+", value) is not None,
        "an address like tcp://server:8786",
    ),
    "WANDB.MODE": one_of("disabled", "offline", "online"),
    "TOKENIZER.MODEL": one_of("wordpiece", "bpe"),
    "TOKENIZER.ACCENTS": one_of("auto", "strip", "keep"),
    "TOKENIZER.SPECIAL_TOKENS": each(
        (lambda token: token.split() == [token], "a token without white space")
    ),
    "TOKENIZER.MAX_TRAINING_MB": above(0),
    "TOKENIZER.VOCAB_SIZE": at_least(100),
    "DATASET.ID": FILE_NAME,
    "DATASET.CUSTOMIZED_DATASETS": each(PATH),
    "DATASET.HUGGINGFACE_DATASETS": each(
        (
            lambda entry: (
                2 <= len(entry) <= 4 and entry[0] and all(map(is_text, entry)) and PATH[0](entry[0])
            ),
            "[name, subset], [name, subset, split] or [name, subset, split, text column], with the "
            f"name of a data set on the Hub, or of {PATH[1]}",
        )
    ),
    "DATASET.TEXT_COLUMN": (lambda value: value != "", "the name of a column"),
    "DATASET.LANGUAGE": (
        lambda value: re.fullmatch(r"[a-z]{2,3}(-[a-z]+)?", value) is not None,
        "an ISO 639 code like en",
    ),
    "DATASET.MASKING": one_of("static", "dynamic"),
    "DATASET.MASK_TOKEN_SHARE": from_to(0, 1),
    "DATASET.RANDOM_TOKEN_SHARE": from_to(0, 1),
    "DATASET.NUM_TRAIN_SHARDS": at_least(0),
    "DATASET.NUM_TEST_SHARDS": at_least(0),
    "DATASET.FRAC_TEST": inside(0, 1),
    "DATASET.MAX_SEQ_LENGTH": between(8, 65536),
    "DATASET.MASKED_LM_PROB": inside(0, 1),
    "DATASET.MAX_PREDICTIONS_PER_SEQ": at_least(1),
    "DATASET.SHORT_SEQ_PROB": between(0, 1),
    "DATASET.DUP_FACTOR": at_least(1),
    "DATASET.SEED": SEED,
    **PRETRAIN_RULES,
    **FINETUNE_RULES,
}


def problems_of_values(config: CfgNode, stages: Iterable[str] | None = None) -> list[str]:
    """One line for every value or combination of values that cannot work.

    stages: those that will run, None for all. What only the others need is not looked at.
    """
    problems = []
    for key, (test, expected) in _rules_of(config):
        value = _get(config, key)
        if not test(value):
            problem = f"{key}: value out of range, got {shown(value)}, expected {expected}"
            problems.append(problem + _hint_at_share(value, test))
    running = {
        stage
        for stage in ("dataset", "pretrain", "finetune", "result_collection")
        if config[stage.upper()].ENABLED and (stages is None or stage in stages)
    }
    if not _can_be_a_folder(Path(config.SYSTEM.OUTPUT_ROOT)):
        problems.append(
            f"SYSTEM.OUTPUT_ROOT: not a folder that can be written to, got "
            f"{config.SYSTEM.OUTPUT_ROOT}, expected one that exists or can be made"
        )
    problems += problems_of_pretraining(config)
    problems += problems_of_samples(config.DATASET)
    problems += problems_of_search(config.FINETUNE)
    for key in ("CUSTOMIZED_DATASETS", "HUGGINGFACE_DATASETS"):
        if len(config.DATASET[key]) > MAX_SOURCES:
            problems.append(
                f"DATASET.{key}: got {len(config.DATASET[key])} sources, expected at most "
                f"{MAX_SOURCES}; a folder may hold any number of files"
            )
    problems += _contradictions(config, running)
    if "dataset" in running:
        problems += _dataset_problems(config)
    if "finetune" in running:
        problems += problems_of_finetuning(config)
    return problems


def _rules_of(config: CfgNode) -> Iterator[tuple[str, Rule]]:
    yield from RULES.items()
    yield from finetune_rules_of(config.FINETUNE)


def _get(config: CfgNode, key: str) -> Any:
    for name in key.split("."):
        config = config[name]
    return config


def _hint_at_share(value: Any, test: Callable[[Any], bool]) -> str:
    """For 15 where 0.15 is meant."""
    if isinstance(value, float) and 1 < value <= 100 and test(value / 100):
        return f" (did you mean {value / 100:g}?)"
    return ""


def _can_be_a_folder(path: Path) -> bool:
    path = path.absolute()
    present = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
    return os.path.isdir(present) and os.access(present, os.W_OK)


def problems_of_samples(dataset: Mapping[str, Any]) -> Iterator[str]:
    """Values of keys of DATASET that contradict each other; also those of a command line."""
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
            f"DATASET.RANDOM_TOKEN_SHARE: more than all, got {random} with "
            f"DATASET.MASK_TOKEN_SHARE {mask}, expected a sum of at most 1"
        )


def _contradictions(config: CfgNode, running: set[str]) -> Iterator[str]:
    """Yields what one stage would make and a later one would not use."""
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
        if folder.startswith(BUILTIN):
            if folder != "builtin:python-docs":
                yield (
                    f"DATASET.CUSTOMIZED_DATASETS: unknown built-in text, got {folder}, "
                    "expected builtin:python-docs"
                )
        elif not os.path.exists(folder):
            yield no_folder("DATASET.CUSTOMIZED_DATASETS", folder)
    name = tokenizer.NAME_OR_PATH
    if tokenizer.TRAIN and name != get_default_config().TOKENIZER.NAME_OR_PATH:
        yield (
            f"TOKENIZER.NAME_OR_PATH: got {name} with TOKENIZER.TRAIN True, which makes a new "
            f"tokenizer of the text; expected TOKENIZER.TRAIN False to use {name}, or no name"
        )
    looks_like_a_path = name.startswith((".", "/", "~")) or name.endswith((".txt", "/"))
    if not tokenizer.TRAIN and looks_like_a_path and not os.path.exists(name):
        yield (
            f"TOKENIZER.NAME_OR_PATH: not there, got {Path(name).absolute()}, expected a folder "
            "in Hugging Face format or a vocab.txt"
        )
