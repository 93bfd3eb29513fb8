"""Small repositories in the layout of those that the shipped configs name."""

import json
import random
from pathlib import Path

import pyarrow
import pyarrow.parquet

WORDS = [
    *("the", "a", "small", "old", "river", "house", "sees", "finds", "under", "quiet"),
    *("stone", "bridge", "and", "then", "walks"),
]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# Task by subset: columns of text, splits, and the words of its labels.
GLUE = {
    "cola": (["sentence"], ["unacceptable", "acceptable"]),
    "sst2": (["sentence"], ["negative", "positive"]),
    "mrpc": (["sentence1", "sentence2"], ["not_equivalent", "equivalent"]),
    "stsb": (["sentence1", "sentence2"], []),
    "qqp": (["question1", "question2"], ["not_duplicate", "duplicate"]),
    "mnli": (["premise", "hypothesis"], ["entailment", "neutral", "contradiction"]),
    "qnli": (["question", "sentence"], ["entailment", "not_entailment"]),
    "rte": (["sentence1", "sentence2"], ["entailment", "not_entailment"]),
    "wnli": (["sentence1", "sentence2"], ["not_entailment", "entailment"]),
    "ax": (["premise", "hypothesis"], ["entailment", "neutral", "contradiction"]),
}
MNLI_SPLITS = (
    *("train", "validation_matched", "validation_mismatched"),
    *("test_matched", "test_mismatched"),
)
SPLITS = {"mnli": MNLI_SPLITS, "ax": ("test",)}
ROWS = {"train": 48, "validation": 12, "test": 12}


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(4, 9))).capitalize() + "."


def article(rng: random.Random) -> str:
    return "\n".join(" ".join(sentence(rng) for _ in range(3)) for _ in range(3))


def write_wikipedia(folder: Path, subsets: dict[str, int], num_files: int = 2) -> None:
    """subsets: number of articles in each file, by name."""
    for number, (subset, rows) in enumerate(subsets.items()):
        for file in range(num_files):
            rng = random.Random(1000 * number + file)
            table = {
                "id": [f"{file}-{row}" for row in range(rows)],
                "title": [f"{subset} {file} {row}" for row in range(rows)],
                "text": [article(rng) for _ in range(rows)],
            }
            name = f"train-{file:05d}-of-{num_files:05d}.parquet"
            write_parquet(folder / subset / name, table)
    write_card(folder, {name: {"train": f"{name}/train-*"} for name in subsets})


def write_books(folder: Path, rows: int = 20) -> None:
    """One subset, and no card, as in lucadiliello/bookcorpusopen."""
    rng = random.Random(7)
    table = {
        "title": [f"book {row}" for row in range(rows)],
        "text": [article(rng) for _ in range(rows)],
    }
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", table)


def write_glue(folder: Path) -> None:
    for task, (columns, labels) in GLUE.items():
        for split in SPLITS.get(task, ("train", "validation", "test")):
            rows, rng = ROWS[split.partition("_")[0]], random.Random(f"{task} {split}")
            table = {column: [sentence(rng) for _ in range(rows)] for column in columns}
            table["label"] = [_label(labels, row, split) for row in range(rows)]
            table["idx"] = list(range(rows))
            write_parquet(folder / task / f"{split}-00000-of-00001.parquet", table, labels)
    subsets = {
        task: {
            split: f"{task}/{split}-*"
            for split in SPLITS.get(task, ("train", "validation", "test"))
        }
        for task in GLUE
    }
    write_card(folder, subsets)


def _label(labels: list[str], row: int, split: str) -> float | int:
    if not labels:
        return -1.0 if split == "test" else row % 6 * 5 / 6
    return -1 if split.startswith("test") else row % len(labels)


def write_parquet(
    path: Path,
    table: dict[str, list],
    labels: list[str] | None = None,
    compression: str = "snappy",
) -> None:
    """labels: the words of a column `label`, as `datasets` keeps them in the file."""
    made = pyarrow.table(table)
    if labels:
        features = {name: {"dtype": str(made.schema.field(name).type)} for name in table}
        for feature in features.values():
            feature["_type"] = "Value"
        features["label"] = {"names": labels, "_type": "ClassLabel"}
        known = json.dumps({"info": {"features": features}})
        made = made.replace_schema_metadata({"huggingface": known})
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(made, path, compression=compression, use_dictionary=False)


def write_card(folder: Path, subsets: dict[str, dict[str, str]]) -> None:
    """README.md with the files by split by subset."""
    lines = ["---", "license: cc0-1.0", "configs:"]
    for subset, splits in subsets.items():
        lines += [f"- config_name: {subset}", "  data_files:"]
        for split, pattern in splits.items():
            lines += [f"  - split: {split}", f"    path: {pattern}"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text("\n".join([*lines, "---", "# Small", ""]))


def vocabulary() -> list[str]:
    pieces = [*LETTERS, *(f"##{letter}" for letter in LETTERS)]
    return [*SPECIAL, ".", *pieces, *sorted(set(WORDS) - set(LETTERS))]


def write_tokenizer(folder: Path) -> None:
    """As of BERT: tokenizer.json, vocab.txt and tokenizer_config.json."""
    from tests.dataset.dataset_helpers import save_bert_tokenizer

    save_bert_tokenizer(vocabulary(), True, folder)


def write_model(folder: Path) -> None:
    """A BERT of two small layers, with its tokenizer, and files that nobody needs."""
    from transformers import BertConfig, BertForMaskedLM

    write_tokenizer(folder)
    config = BertConfig(
        vocab_size=len(vocabulary()),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    (folder / "flax_model.msgpack").write_bytes(b"0" * 1000)
    (folder / "pytorch_model.bin").write_bytes(b"0" * 1000)
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"0" * 1000)
