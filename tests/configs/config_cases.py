"""Random and mutated configs and command lines, of kinds that go wrong in different ways."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from configs.defaults import get_default_config
from configs.loading import flatten

PROJECT = Path(__file__).resolve().parent.parent.parent
SHIPPED = sorted((PROJECT / "configs").rglob("*.yaml"))
DEFAULTS = flatten(get_default_config())
SECTIONS = tuple(get_default_config())
STAGES = ("dataset", "pretrain", "finetune", "result_collection")
CONFIG = "config.yaml"

# A config that can be planned among the files of tests.configs.fuzz_configs, with a task of the
# user's own.
PLANNED = """
SYSTEM: {NUM_GPUS: 0, NUM_WORKERS: 1}
TOKENIZER: {TRAIN: True, VOCAB_SIZE: 600}
DATASET: {CUSTOMIZED_DATASETS: [texts], MAX_SEQ_LENGTH: 128}
MODEL: {HIDDEN_SIZE: 32, NUM_HIDDEN_LAYERS: 2, NUM_ATTENTION_HEADS: 2, INTERMEDIATE_SIZE: 64}
PRETRAIN: {NUM_STEPS: 4, BATCH_SIZE: 16}
FINETUNE:
  GLUE_DIR: builtin:demo
  TASKS: [CoLA, own]
  STILT_TASKS: []
  CUSTOM_TASKS: {own: {TRAIN: train.tsv, DEV: dev.tsv, TEXT_COLUMNS: [text]}}
"""
ODD_TEXTS = (
    *("", " ", "~", "null", "yes", "None", "NaN", "-inf", "1e999", "0x10", "1_0", "1:30", "010"),
    *("../../x", "..", ".", "a/b", "/a", "a/../../b", "a\\b", "~/x", "~nobody/x", "./x/", "a:b"),
    *("a\0b", "a\nb", "a\r\nb", "a\tb", "\x1b[31m", "\x85", "\u2028", "\ufeff", "\u202e"),
    *("\ud800", "\udc80", "🙂", "日本", "é" * 200, "x" * 128, "x" * 129, "x" * 300, "x" * 5000),
    *("$(touch x)", "`touch x`", "; touch x", "--force", "-1", "%s", "{0}", "'", '"', "#"),
    *("builtin:x", "builtin:demo", "pipe", "loop", "gone", "texts", "train.tsv", "/dev/zero"),
    *("/dev/null/x", "/proc/self/mem", "tcp://a:1", "https://user:password@server", "a" * 250),
)
ODD_NUMBERS = (
    *(0, 1, -1, 2, 7, 10**9, -(10**9), 2**31, 2**32, 2**53 + 1, 2**63, -(2**63), 2**64, 10**30),
    *(10**400, 0.5, 1.0, 2.5, -0.0, 5e-324, 1e-5, 1e15, 1e16, 1e300, -1e308, True, False, None),
    *(float("inf"), float("-inf"), float("nan")),
)
ODD_THINGS = (date(2024, 1, 5), b"\0\xff", {"a", "b"}, [], {})
# Numbers that a key may take, many of them at the limit of what can be planned.
LIMITS = (0, 1, 2, 3, 8, 1000, 10**6, 2**32 - 1, 10**15, 0.5, 1e-300, 1e15)
SNIPPETS = (
    *("\t", "\0", "\ufeff", ":", ": ", "- ", "? ", "[", "]", "{", "}", ",", "'", '"', "|\n", ">\n"),
    *("&a ", "*a", "<<: *a", "<<: {}", "!!python/object/apply:os.getcwd []", "!!binary x", "!x "),
    *("!!timestamp x", "!!int ''", "---\n", "...\n", "%YAML 1.1\n", "%TAG ! x\n", "#", "\\", "\r"),
    *('"\\UFFFFFFFF"', '"\\ud800"', "\x85", "\u2028", "🙂", "\ud800", "@", "`", "=", "0x_", "~"),
    *("\n", "\n  ", "\n\n", "    ", "_BASE_: config.yaml\n", "DATASET: ", "ID: "),
)
WORDS = (*SECTIONS, "ID", "ENABLED", "GRID", "RTE", "a", "1", "1.5", "true", "null", *SNIPPETS)


@dataclass(frozen=True)
class Case:
    """files: content by name, CONFIG among them. overrides: keys and values of the command line.

    options: others of main.py, with which it changes nothing.
    """

    files: dict[str, bytes]
    overrides: list[str] = field(default_factory=list)
    options: tuple[str, ...] = ("--dry-run",)


def mutated_tree(rng: random.Random) -> Case:
    """A config with other values and names in it, or nothing but these."""
    tree = yaml.safe_load(_sound_config(rng)) if rng.random() < 0.8 else {}
    for _ in range(rng.randint(1, 3)):
        _put(tree, *_key_and_value(rng))
    return _case(yaml.safe_dump(tree, allow_unicode=rng.random() < 0.5), options=_options(rng))


def mutated_text(rng: random.Random) -> Case:
    """A config with cuts and snippets of YAML in it, and lines doubled and moved."""
    text = _sound_config(rng)
    for _ in range(rng.randint(1, 4)):
        place, lines = rng.randrange(len(text) + 1), text.splitlines(keepends=True) or [""]
        line = rng.randrange(len(lines))
        before, here, after = lines[:line], lines[line], lines[line + 1 :]
        text = rng.choice(
            (
                text[:place] + rng.choice(SNIPPETS) + text[place:],
                text[:place] + text[place + rng.randint(1, 20) :],
                text[:place],
                "".join([*before, here, here, *after]),
                "".join([*before, " " * rng.randint(1, 3), here, *after]),
                "".join(rng.sample(lines, len(lines))),
            )
        )
    return _case(text)


def mutated_bytes(rng: random.Random) -> Case:
    """A config in another encoding, with other bytes, or nothing but random bytes."""
    if rng.random() < 0.2:
        return Case({CONFIG: rng.randbytes(rng.randint(0, 300))})
    encoding = rng.choice(("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp037"))
    content = bytearray(_sound_config(rng).encode(encoding, "replace"))
    for _ in range(rng.randint(0, 10)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return Case({CONFIG: bytes(content)})


def random_tokens(rng: random.Random) -> Case:
    glue = rng.choice(("", " ", "\n"))
    return _case(glue.join(rng.choice(WORDS) for _ in range(rng.randint(0, 40))))


def base_files(rng: random.Random) -> Case:
    """Files that name each other, and names of what is no config."""
    names = [CONFIG, *(f"{n}.yaml" for n in range(rng.randint(0, 5)))]
    odd = (*ODD_TEXTS, "x/" * 3000, "[a, b]", "{a: b}", "*a", "&a x", str(SHIPPED[0]))
    files = {}
    for name in names:
        base = rng.choice(names if rng.random() < 0.6 else odd)
        line = f"_BASE_: {base if rng.random() < 0.5 else json.dumps(base)}\n"
        tree: dict[str, Any] = {}
        _put(tree, *_key_and_value(rng))
        lines = line * rng.choices((0, 1, 2), (3, 6, 1))[0]
        files[name] = _encoded(lines + rng.choice(("", PLANNED, yaml.safe_dump(tree))))
    return Case(files)


def odd_overrides(rng: random.Random) -> Case:
    """Keys and values of a command line; now and then a key without a value."""
    words = []
    for _ in range(rng.randint(1, 3)):
        key, value = _key_and_value(rng)
        dumped = yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n")
        words += [key, rng.choice((dumped, str(value)))]
    if rng.random() < 0.05:
        words.pop()
    return _case(PLANNED if rng.random() < 0.5 else "", overrides=words, options=_options(rng))


def odd_names(rng: random.Random) -> Case:
    """Texts where folders get their names from, and where paths stand."""
    tree = yaml.safe_load(PLANNED)
    name = rng.choice(ODD_TEXTS)
    keys = (
        *("DATASET.ID", "PRETRAIN.ID", "MODEL.TYPE", "FINETUNE.MODEL_NAME_OR_PATH"),
        "FINETUNE.ID",
        *("SYSTEM.OUTPUT_ROOT", "SYSTEM.HOSTFILE", "PRETRAIN.DEEPSPEED_CONFIG"),
        *("TOKENIZER.NAME_OR_PATH", "FINETUNE.GLUE_DIR", "FINETUNE.SUPERGLUE_DIR"),
        *("WANDB.PROJECT", "DATASET.LANGUAGE", "FINETUNE.CUSTOM_TASKS.own.TRAIN"),
    )
    for key in rng.sample(keys, rng.randint(1, 2)):
        _put(tree, key, name)
    if rng.random() < 0.3:
        own = tree["FINETUNE"]["CUSTOM_TASKS"]["own"]
        tree["FINETUNE"] |= {"CUSTOM_TASKS": {name: own}, "TASKS": [name]}
    if rng.random() < 0.2:
        tree["DATASET"]["CUSTOMIZED_DATASETS"] = [name]
    if rng.random() < 0.2:
        tree["DATASET"]["HUGGINGFACE_DATASETS"] = [[name, rng.choice(ODD_TEXTS)]]
    return _case(yaml.safe_dump(tree), options=_options(rng))


def planned(rng: random.Random) -> Case:
    """A config that can be planned, but for one value or two: often a number at its limits."""
    tree = yaml.safe_load(PLANNED)
    for _ in range(rng.choice((1, 1, 2))):
        key = rng.choice(list(DEFAULTS))
        _put(tree, key, _fitting_value(rng, key))
    return _case(yaml.safe_dump(tree), options=_options(rng))


KINDS: tuple[Callable[[random.Random], Case], ...] = (
    *(mutated_tree, mutated_text, mutated_bytes, random_tokens),
    *(base_files, odd_overrides, odd_names, planned),
)


def make_case(seed: int, number: int) -> tuple[str, Case]:
    """(kind, case): the same for the same numbers."""
    kind = KINDS[number % len(KINDS)]
    return kind.__name__, kind(random.Random(f"{seed} {number}"))


def _sound_config(rng: random.Random) -> str:
    return PLANNED if rng.random() < 0.5 else rng.choice(SHIPPED).read_text()


def _case(text: str, **rest: Any) -> Case:
    return Case({CONFIG: _encoded(text)}, **rest)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _options(rng: random.Random) -> tuple[str, ...]:
    """Mostly --dry-run alone, else with others; or --status."""
    looks = (("--status",), ("--dry-run", "--clear_cache"), ("--dry-run", "--force", "dataset"))
    stages = ",".join(STAGES[: rng.randint(1, 4)]) if rng.random() < 0.5 else rng.choice(STAGES)
    return rng.choice(
        (("--dry-run",), ("--dry-run", "--stages", stages), rng.choice(looks)),
    )


def _key_and_value(rng: random.Random) -> tuple[str, Any]:
    key = rng.choice(list(DEFAULTS))
    if rng.random() < 0.4:
        return key, _fitting_value(rng, key)
    return key if rng.random() < 0.8 else _odd_key(rng), _odd_value(rng)


def _fitting_value(rng: random.Random, key: str) -> Any:
    """One of the type of the key, which may be out of its range."""
    default = DEFAULTS[key]
    if isinstance(default, bool):
        return rng.random() < 0.5
    if isinstance(default, str):
        return rng.choice(ODD_TEXTS)
    if isinstance(default, list):
        return rng.choices(rng.choice((LIMITS, ODD_TEXTS)), k=rng.randint(0, 3))
    return rng.choice(LIMITS)


def _odd_value(rng: random.Random, depth: int = 0) -> Any:
    if depth < 3 and rng.random() < 0.25:
        values = [_odd_value(rng, depth + 1) for _ in range(rng.randint(0, 3))]
        # Three times the same list: it gets an anchor and aliases.
        return rng.choice((values, {_odd_key(rng): value for value in values}, [values] * 3))
    return rng.choice(rng.choices((ODD_NUMBERS, ODD_TEXTS, ODD_THINGS), (4, 4, 1))[0])


def _odd_key(rng: random.Random) -> str:
    key = rng.choice(list(DEFAULTS))
    place, text = rng.randrange(len(key)), rng.choice(ODD_TEXTS)
    return rng.choice(
        (
            *(text, key.lower(), key[:place] + key[place + 1 :], f"{key}.{text}", "_BASE_"),
            *(f"FINETUNE.CUSTOM_TASKS.{text}", f"FINETUNE.GRID.{text}.EPOCHS"),
        )
    )


def _put(tree: dict, key: str, value: Any) -> None:
    """At its place in the tree, whatever stood in the way."""
    *sections, name = key.split(".")
    for section in sections:
        if not isinstance(tree.get(section), dict):
            tree[section] = {}
        tree = tree[section]
    tree[name] = value
