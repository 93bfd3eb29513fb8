"""Speed and memory of `finetune.predict`, beside transformers' pipeline.

    python -m benchmarks.predict                      a random classifier of 4 x 256
    python -m benchmarks.predict --megabytes 1024     memory and resuming, of a gigabyte

Speed: both ways predict the same rows of a CSV file in turns, and write a CSV file; the pipeline
has batches of 32 and is loaded once, ours is loaded in every turn. Memory: the command predicts the
whole file, and a tenth of it. Then it is killed halfway and started again, and has to write the
same bytes.
"""

import argparse
import csv
import filecmp
import math
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

if __name__ == "__main__":
    from pipeline.environment import enter_environment

    enter_environment()

from benchmarks.harness import (
    CommandRun,
    Contestant,
    Report,
    Spread,
    ratio,
    run_command,
    started,
    take_turns,
)
from benchmarks.sizes import Size, parse_size
from benchmarks.texts import find_vocabulary, read_articles, repeated_text, text_folders

# Characters of a text, log-normal: about 50 to 1,200, as in notes and reviews.
MEDIAN_CHARACTERS, DEVIATION = 240, 0.8
MEAN_CHARACTERS = MEDIAN_CHARACTERS * math.exp(DEVIATION**2 / 2)
LEAST_MEGABYTES = 3  # several pieces of rows, to be killed between them
LABELS = {0: "no", 1: "yes"}
LENGTH, BATCH_SIZE = 128, 32
PATIENCE_SECONDS = 0.2


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--megabytes", type=float, default=50, help="of the whole file")
    add("--rows", type=int, default=2000, help="of a turn of the speed")
    add("--rounds", type=int, default=3)
    add("--model", type=Path, help="folder of a classifier of single texts; default: a random one")
    add("--size", type=parse_size, default=parse_size("4x256"), help="of the random one")
    add("--text", default="", help="folder of .txt files; default: real text, if available")
    args = parser.parse_args()
    if args.megabytes < LEAST_MEGABYTES:
        parser.error(f"--megabytes: got {args.megabytes}, expected at least {LEAST_MEGABYTES}")
    return args


# --- contestants ------------------------------------------------------------------------------


def predict_with_command(report: Report, model: Path, file: Path, output: Path) -> None:
    """Reports the seconds of each turn."""
    from finetune.predict import main

    report(None)
    while True:
        begin = time.perf_counter()
        command = [model, file, "--output", output, "--overwrite", "--use_cpu"]
        assert main([*map(str, command), "--text_columns", "text"]) == 0
        report(time.perf_counter() - begin)


def predict_usually(report: Report, model: Path, file: Path, output: Path) -> None:
    """Reports the seconds of each turn."""
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(model), device="cpu", top_k=None)
    report(None)
    while True:
        begin = time.perf_counter()
        with open(file, newline="") as lines, open(output, "w", newline="") as out:
            rows, write = list(csv.DictReader(lines)), csv.writer(out)
            texts = (row["text"] for row in rows)
            answers = classify(texts, batch_size=BATCH_SIZE, truncation=True)
            for row, scores in zip(rows, answers, strict=True):
                write.writerow([*row.values(), scores[0]["label"], *(s["score"] for s in scores)])
        report(time.perf_counter() - begin)


# --- model and files --------------------------------------------------------------------------


def make_classifier(size: Size, vocabulary: Path, folder: Path) -> Path:
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    tokenizer = BertTokenizerFast(vocab=str(vocabulary), model_max_length=LENGTH)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=size.feed_forward(gated=False),
        id2label=LABELS,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def texts_of_rows(text: Path) -> Iterator[str]:
    """Yields parts of the articles, again and again."""
    size = sum(path.stat().st_size for path in text.glob("*.txt"))
    articles = [" ".join(article.split()) for article in read_articles(text, min(size, 20e6))]
    lengths = random.Random(0)
    for article in cycle(articles):
        start = 0
        while start < len(article):
            stop = start + 1 + int(lengths.lognormvariate(math.log(MEDIAN_CHARACTERS), DEVIATION))
            yield article[start:stop]
            start = stop


def write_rows(path: Path, texts: Iterator[str], num_bytes: float) -> Path:
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("id", "text"))
        number = 0
        while file.tell() < num_bytes:
            rows.writerows((number + i, part) for i, part in enumerate(islice(texts, 100)))
            number += 100
    return path


# --- measurements -----------------------------------------------------------------------------


def measure_speed(model: Path, file: Path, rounds: int) -> dict[str, list[float]]:
    ways = {"pipeline": predict_usually, "predict": predict_with_command}
    contestants = {
        name: Contestant(way, model, file, file.with_name(f"{name}.csv"), log=file.parent / name)
        for name, way in ways.items()
    }
    return take_turns(contestants, rounds)


def command_of(model: Path, file: Path, output: Path) -> list[str]:
    words = [model, file, "--output", output, "--resume", "--use_cpu", "--text_columns", "text"]
    return [sys.executable, "-m", "finetune.predict", *map(str, words)]


def run_whole(model: Path, file: Path, output: Path) -> CommandRun:
    return run_command(command_of(model, file, output), output.with_suffix(".log"))


def kill_halfway(model: Path, file: Path, output: Path) -> int:
    """Kills the command after half of its rows; returns the rows that are kept."""
    from finetune.prediction.unfinished import RECORD
    from pipeline.store.record_files import read_json

    record = output.with_name(f"{output.name}.part") / RECORD
    with started(command_of(model, file, output), output.with_suffix(".log")) as process:
        while process.poll() is None:
            found = read_json(record) or {}
            if found.get("rows", 0) * 2 >= found.get("facts", {}).get("rows", sys.maxsize):
                process.kill()
                process.wait()
                return found["rows"]
            time.sleep(PATIENCE_SECONDS)
    raise SystemExit(f"the command ended before it was killed: {output.with_suffix('.log')}")


def main() -> None:
    args = parse_arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = repeated_text(text_folders(args.text), folder / "text", 0)
        model = args.model or make_classifier(
            args.size, find_vocabulary(text, folder), folder / "model"
        )
        rows = texts_of_rows(text)
        few = write_rows(folder / "few.csv", rows, args.rows * MEAN_CHARACTERS)
        found = measure_speed(model, few, args.rounds)
        with open(few, newline="") as file:
            number = sum(1 for _ in csv.reader(file)) - 1
        for way, seconds in found.items():
            print(f"{way}: {Spread.of(number / s for s in seconds):,.0f} rows/s")
        faster = ratio(found["pipeline"], found["predict"])
        print(f"predict is {faster:.2f} times as fast on {number:,} rows", flush=True)

        peaks = {}
        for share in (0.1, 1.0):
            whole = write_rows(folder / f"{share}.csv", rows, share * args.megabytes * 1e6)
            run = run_whole(model, whole, folder / f"predicted_{share}.csv")
            peaks[share] = run.peak_bytes
            megabytes = whole.stat().st_size / 1e6
            print(
                f"{megabytes:,.0f} MB: {run.wall:,.0f} s, peak {run.peak_bytes / 1e9:.2f} GB",
                flush=True,
            )
        kept = kill_halfway(model, whole, folder / "killed.csv")
        run_whole(model, whole, folder / "killed.csv")
        is_same = filecmp.cmp(folder / "killed.csv", folder / "predicted_1.0.csv", shallow=False)
        words = "the same bytes" if is_same else "OTHER BYTES"
        print(f"killed after {kept:,} rows and started again: {words}")


if __name__ == "__main__":
    main()
