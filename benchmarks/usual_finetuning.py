"""Finetunes one model on one GLUE task with one setting in the usual way.

That is transformers' Trainer on the model as it is, every sample padded to the full length, a
process per setting, which uses all cores. Its data is read by our own reader, and nothing is saved:
neither counts against it. Prints one line of JSON.
"""

import argparse
import json
import tempfile
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import Trainer


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", required=True)
    add("--task", required=True)
    add("--glue_dir", required=True)
    add("--epochs", type=float, required=True)
    add("--batch_size", type=int, required=True)
    add("--learning_rate", type=float, required=True)
    add("--seed", type=int, required=True)
    add("--max_seq_length", type=int, required=True)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    trainer, data, predict_test = build(args)
    begin = time.perf_counter()
    trainer.train()
    trained = time.perf_counter()
    outputs = trainer.predict(data["dev"]).predictions
    trainer.predict(data["test"]) if predict_test else None
    ended = time.perf_counter()
    right = outputs.argmax(axis=1) == [row["labels"] for row in data["dev"]]
    seconds = {"training": trained - begin, "prediction": ended - trained}
    print(json.dumps({"seconds": seconds, "accuracy": float(right.mean())}))


def build(args: argparse.Namespace) -> tuple["Trainer", dict[str, list[dict[str, Any]]], bool]:
    """A Trainer with its data, and whether there is a test set."""
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    from finetune.data.examples import has_split, load_examples
    from finetune.data.tasks import find_task

    task = find_task(args.task)
    splits = {"train": task.train, "dev": task.dev[0], "test": task.test[0]}
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    data = {}
    for name, split in splits.items():
        if not has_split(split, args.glue_dir):
            continue
        examples = load_examples(task, split, args.glue_dir)
        columns = [list(texts) for texts in zip(*examples.texts, strict=True)]
        batch = tokenizer(
            *columns, padding="max_length", truncation=True, max_length=args.max_seq_length
        )
        labels = examples.labels or [0] * len(examples.texts)
        data[name] = [
            {**{key: batch[key][i] for key in batch}, "labels": label}
            for i, label in enumerate(labels)
        ]
    set_seed(args.seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        args.model, num_labels=len(task.labels)
    )
    arguments = TrainingArguments(
        output_dir=tempfile.gettempdir(),
        num_train_epochs=args.epochs,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=128,
        learning_rate=args.learning_rate,
        weight_decay=0.1,
        warmup_steps=0.06,
        lr_scheduler_type="polynomial",
        seed=args.seed,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    return Trainer(model=model, args=arguments, train_dataset=data["train"]), data, "test" in data


if __name__ == "__main__":
    main()
