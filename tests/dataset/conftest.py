"""A small corpus, a small vocabulary and a config over both."""

import importlib
import random
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from yacs.config import CfgNode

from configs.defaults import get_default_config

WORDS = ["the", "cat", "dog", "sat", "ran", "on", "under", "a", "log", "Paris", "naïve", "café"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def make_article(rng: random.Random) -> str:
    sentences = [
        " ".join(rng.choices(WORDS, k=rng.randrange(1, 30))).capitalize() + "."
        for _ in range(rng.randrange(1, 9))
    ]
    return rng.choice((" ", "\n")).join(sentences)


@pytest.fixture(scope="session")
def articles() -> list[str]:
    rng = random.Random(0)
    return [f"Article {i} begins. " + make_article(rng) for i in range(300)]


@pytest.fixture(scope="session")
def corpus(articles, tmp_path_factory) -> Path:
    """A folder of two text files."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "a.txt").write_text("\n\n".join(articles[:200]), encoding="utf-8")
    (folder / "b.txt").write_text("\n\n\n".join(articles[200:]), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory) -> Path:
    """A vocab.txt with whole words, letters and unused entries."""
    words = {word.lower().replace("ï", "i").replace("é", "e") for word in WORDS} | {
        "article",
        "begins",
    }
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    digits = [str(digit) for digit in range(10)]
    pieces = [f"##{character}" for character in letters + digits]
    entries = [*SPECIAL, "[unused0]", "[unused1]", *sorted(words - set(letters)), *letters, *digits]
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join([*entries, *pieces, ".", ","]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def config(corpus, vocabulary, tmp_path) -> CfgNode:
    config = get_default_config()
    config.SYSTEM.OUTPUT_ROOT = str(tmp_path / "root")
    config.SYSTEM.NUM_WORKERS = 1
    config.TOKENIZER.NAME_OR_PATH = str(vocabulary)
    config.DATASET.CUSTOMIZED_DATASETS = [str(corpus)]
    config.DATASET.NUM_TRAIN_SHARDS = 3
    config.DATASET.NUM_TEST_SHARDS = 2
    config.DATASET.FRAC_TEST = 0.1
    config.DATASET.MAX_SEQ_LENGTH = 32
    config.DATASET.MAX_PREDICTIONS_PER_SEQ = 5
    config.DATASET.DUP_FACTOR = 2
    return config


@pytest.fixture
def command(capsys):
    """Runs a command of the package in this process."""

    def run(name: str, *arguments) -> CompletedProcess:
        capsys.readouterr()
        code = 0
        try:
            importlib.import_module(f"dataset.{name}").main(list(map(str, arguments)))
        except SystemExit as end:
            code = end.code
        return CompletedProcess(name, code, *capsys.readouterr())

    return run
