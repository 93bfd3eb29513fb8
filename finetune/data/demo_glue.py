"""Generates a small benchmark in GLUE's TSV layout to try the pipeline (`builtin:demo`).

It has all nine tasks and AX with a few hundred rows each. A small model can learn them after
minutes of pretraining. Row counts differ from GLUE's on purpose: its results cannot be submitted.
"""

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from finetune.data import demo_sentences as sentences
from pipeline.errors import StageError
from pipeline.store.atomic_files import written_aside
from pipeline.store.checksums import file_digest
from pipeline.store.record_files import delete_unfinished_file

DEMO_NAME = "builtin:demo"
SEED = 42
# Share of the rows with texts for a random label: without noise, every setting would score 100.
NOISE = 0.15

_BINARY = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")
_THREE_WAY = ("entailment", "neutral", "contradiction")
_SCORES = tuple(f"{quarter / 4:.3f}" for quarter in range(21))


@dataclass(frozen=True)
class _Layout:
    """The files of a task and their lines.

    labelled, tests: (name, number of rows) of the files with and without labels. Columns are
    separated by `|`; {i} is the row's number, {a} and {b} its texts, {y} its label. An empty
    header means no header line.
    """

    make: Callable[[sentences.Words, str], tuple[str, ...]]
    labels: tuple[str, ...]
    header: str
    row: str
    test_header: str = "index|sentence1|sentence2"
    test_row: str = "{i}|{a}|{b}"
    labelled: tuple[tuple[str, int], ...] = (("train", 400), ("dev", 120))
    tests: tuple[tuple[str, int], ...] = (("test", 90),)


_STS_HEADER = "index|genre|filename|year|old_index|source1|source2|sentence1|sentence2"
_STS_ROW = "{i}|demo|demo|2026|{i}|demo|demo|{a}|{b}"
_MNLI_HEADER = (
    "index|promptID|pairID|genre|sentence1_binary_parse|sentence2_binary_parse|sentence1_parse|"
    "sentence2_parse|sentence1|sentence2"
)
_MNLI_ROW = "{i}|{i}|{i}e|demo|n/a|n/a|n/a|n/a|{a}|{b}"
_MRPC_HEADER, _MRPC_ROW = "#1 ID|#2 ID|#1 String|#2 String", "{i}|{i}|{a}|{b}"
_PAIR_HEADER, _PAIR_ROW = "index|sentence1|sentence2|label", "{i}|{a}|{b}|{y}"

_LAYOUTS = {
    "CoLA": _Layout(sentences.cola, _BINARY, "", "demo|{y}||{a}", "index|sentence", "{i}|{a}"),
    "SST-2": _Layout(
        sentences.sst2, _BINARY, "sentence|label", "{a}|{y}", "index|sentence", "{i}|{a}"
    ),
    "MRPC": _Layout(
        sentences.paraphrase,
        _BINARY,
        f"Quality|{_MRPC_HEADER}",
        f"{{y}}|{_MRPC_ROW}",
        f"index|{_MRPC_HEADER}",
        f"{{i}}|{_MRPC_ROW}",
    ),
    "STS-B": _Layout(
        sentences.similarity,
        _SCORES,
        f"{_STS_HEADER}|score",
        f"{_STS_ROW}|{{y}}",
        _STS_HEADER,
        _STS_ROW,
    ),
    "QQP": _Layout(
        sentences.questions,
        _BINARY,
        "id|qid1|qid2|question1|question2|is_duplicate",
        "{i}|{i}|{i}|{a}|{b}|{y}",
        "id|question1|question2",
        labelled=(("train", 500), ("dev", 120)),
    ),
    "MNLI": _Layout(
        sentences.inference,
        _THREE_WAY,
        f"{_MNLI_HEADER}|label1|gold_label",
        f"{_MNLI_ROW}|{{y}}|{{y}}",
        _MNLI_HEADER,
        _MNLI_ROW,
        labelled=(("train", 600), ("dev_matched", 120), ("dev_mismatched", 120)),
        tests=(("test_matched", 90), ("test_mismatched", 90)),
    ),
    "QNLI": _Layout(
        sentences.answers,
        _ENTAILMENT,
        "index|question|sentence|label",
        _PAIR_ROW,
        "index|question|sentence",
        labelled=(("train", 500), ("dev", 120)),
    ),
    "RTE": _Layout(sentences.two_way_inference, _ENTAILMENT, _PAIR_HEADER, _PAIR_ROW),
    "WNLI": _Layout(sentences.pronouns, _BINARY, _PAIR_HEADER, _PAIR_ROW),
    "AX": _Layout(
        sentences.inference, _THREE_WAY, "", "", labelled=(), tests=(("diagnostic", 60),)
    ),
}


# As `pipeline.store.checksums.file_digest` computes them: other texts would be another benchmark.
DEMO_DIGESTS = {
    "CoLA/train.tsv": "27e604576f7bd4081c22a3299795c7fd",
    "CoLA/dev.tsv": "7813edbe5f30ae4d3372192105332b89",
    "CoLA/test.tsv": "28a7b38f84e9d66b8e4ae97d0e9d5475",
    "SST-2/train.tsv": "0feb0b15399a63cf434594c96ba277b6",
    "SST-2/dev.tsv": "fcc17329a7866ece0cda6a6cff09953e",
    "SST-2/test.tsv": "16fc3f773f1a3a8cdeeaa821d9153d7e",
    "MRPC/train.tsv": "0df9e56cd1e19dcaeedf9d2316df98d4",
    "MRPC/dev.tsv": "6bb91d2c0dfe1469c5bd83a9a653e398",
    "MRPC/test.tsv": "75626bf1683048b6d088826ae52aff46",
    "STS-B/train.tsv": "063df7a784c8ff33cb314c9ca708d899",
    "STS-B/dev.tsv": "5c45936f6d546b87371920a32941a8f5",
    "STS-B/test.tsv": "fdaa4dc509c55f6df708eeb177b47551",
    "QQP/train.tsv": "3f23bdec745a8cbd675c1621c64710f8",
    "QQP/dev.tsv": "c3759a9ccf9d81dc444ed60d9c469482",
    "QQP/test.tsv": "c2b340112fda9f8f8e0a89506d9e45c6",
    "MNLI/train.tsv": "06ddb7810480c2325631e6fc612de8c1",
    "MNLI/dev_matched.tsv": "5133903ee38c6ac3bc7ef5f66280dd70",
    "MNLI/dev_mismatched.tsv": "6c579fedc0cc567aba45ecf162e9c846",
    "MNLI/test_matched.tsv": "54354a5540b9e598f256a6b8c4f442d4",
    "MNLI/test_mismatched.tsv": "5128949e89c63bdb05b7077c5593fe91",
    "QNLI/train.tsv": "9ba623335b79c8a082cece6449a8122c",
    "QNLI/dev.tsv": "1f8a33b899fac72fdbb0df92bde84a0f",
    "QNLI/test.tsv": "e86945d6b785fa21f8ff8c442bbff907",
    "RTE/train.tsv": "9a89cedb3b82883045e657674aedcd67",
    "RTE/dev.tsv": "ac7c263aef20230d480508976768fda2",
    "RTE/test.tsv": "aba54b4cb7bdf89001102fae47a4836c",
    "WNLI/train.tsv": "5c2cb22f4091ccf795627b236d069137",
    "WNLI/dev.tsv": "c86ef67ac644cce1b43521b4671e32f9",
    "WNLI/test.tsv": "f17ae20a381c3674ad4971118e52fc96",
    "AX/diagnostic.tsv": "3e01bc87a676192ffd3c279ffce27400",
}


@functools.cache
def demo_files(seed: int = SEED) -> dict[str, str]:
    """Returns the content of each file by its path below the benchmark's folder."""
    files = {}
    for task, layout in _LAYOUTS.items():
        for name, num_rows in (*layout.labelled, *layout.tests):
            rng = random.Random(f"{seed} {task} {name}")
            texts = (layout.header, layout.row)
            if (name, num_rows) in layout.tests:
                texts = (layout.test_header, layout.test_row)
            files[f"{task}/{name}.tsv"] = _file(layout, rng, num_rows, *texts)
    return files


def _file(layout: _Layout, rng: random.Random, num_rows: int, header: str, row: str) -> str:
    """Returns the content of a file with balanced, shuffled labels."""
    labels = [layout.labels[i % len(layout.labels)] for i in range(num_rows)]
    rng.shuffle(labels)
    lines = [header] if header else []
    for i, label in enumerate(labels):
        meant = rng.choice(layout.labels) if rng.random() < NOISE else label
        first, second = (*layout.make(sentences.Words(rng), meant), "")[:2]
        lines.append(row.format(i=i, a=first, b=second, y=label))
    return "\n".join(lines).replace("|", "\t") + "\n"


def write_demo_glue(directory: Path) -> None:
    """Writes missing and changed files. No other process may write them at the same time.

    Raises StageError if this Python draws other texts.
    """
    for path, digest in DEMO_DIGESTS.items():
        file = directory / path
        if not file.is_file() or file_digest(file) != digest:
            delete_unfinished_file(file)
            with written_aside(file) as aside:
                aside.write_bytes(demo_files()[path].encode())
                if file_digest(aside) != digest:
                    problem = "this Python draws other texts than Python 3.10 to 3.13"
                    raise StageError(f"{DEMO_NAME}: {path}: {problem}")
