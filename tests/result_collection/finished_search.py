"""A finished search without training: the records of all stages."""

import json
import math
from pathlib import Path

import numpy as np

from configs.defaults import custom_task_node, get_default_config
from dataset.card import write_card
from finetune.data.demo_glue import write_demo_glue
from finetune.data.examples import load_examples
from finetune.evaluation.dev_predictions import predictions_of
from finetune.evaluation.prediction_files import write_dev_predictions
from finetune.search.grid import best_job
from finetune.search.job_folder import dev_predictions_path, predictions_path, write_result
from finetune.task_types.label_metrics import score_predictions, task_score
from pipeline.store.atomic_files import write_json, write_text
from pipeline.store.paths import demo_glue_dir, log_path
from tests.plans import dataset_artifact, finetune_artifact, load_search, pretrain_artifact

OWN_TASK = "<script>alert(1)"
OWN_LABEL = "<img src=x onerror=alert(2)>"
SECRET = "0123456789-secret"
SAMPLE_OF_TEXT = "the patient was seen by"


def make_finished_search(
    folder,
    tasks,
    seeds=(1, 2, 3),
    epochs=(3, 5),
    rates=(1e-5, 5e-5),
    external=False,
    skip=(),
    signal=0.0,
):
    """Returns the config of a finished search over these tasks, with all its files in `folder`.

    external: the model was not pretrained here. skip: (epochs, learning rate) pairs without a run,
    as after a search by halving. signal: of `predict_dev`; 0 for runs without dev predictions.
    """
    config = _config(folder, external)
    config.FINETUNE.TASKS = list(tasks)
    config.FINETUNE.SEEDS = list(seeds)
    for task in ("DEFAULT", *tasks):
        grid = config.FINETUNE.GRID.get(task, config.FINETUNE.GRID.DEFAULT)
        grid.EPOCHS, grid.BATCH_SIZES = list(epochs), [16, 32]
        grid.LEARNING_RATES = list(rates)
    if not external:
        _prepare(config)
        _pretrain(config)
    finish_search(config, skip, signal)
    return config


def _config(folder: Path, external: bool):
    config = get_default_config()
    config.SYSTEM.OUTPUT_ROOT = str(folder / "root")
    config.WANDB.API_KEY = SECRET
    config.DATASET.CUSTOMIZED_DATASETS = [str(folder / "text")]
    config.TOKENIZER.TRAIN = True
    write_text(folder / "text" / "a.txt", "A sentence.\n")
    config.FINETUNE.GLUE_DIR = "builtin:demo"
    config.FINETUNE.STILT_TASKS = []
    config.FINETUNE.SUPERGLUE_DIR = str(folder / "superglue")
    for name in ("train", "val"):
        row = {"premise": "A.", "hypothesis": "B.", "label": "entailment", "idx": 0}
        write_text(folder / "superglue" / "CB" / f"{name}.jsonl", json.dumps(row) + "\n")
    own = custom_task_node()
    for key in ("TRAIN", "DEV", "TEST"):
        write_text(folder / f"{key}.tsv", f"text\tlabel\nA.\t{OWN_LABEL}\nB.\tother\n")
        own[key] = str(folder / f"{key}.tsv")
    own.TEXT_COLUMNS = ["text"]
    config.FINETUNE.CUSTOM_TASKS[OWN_TASK] = own
    if external:
        write_text(folder / "models" / "mine" / "config.json", "{}")
        config.FINETUNE.MODEL_NAME_OR_PATH = str(folder / "models" / "mine")
    return config


def _prepare(config) -> None:
    artifact = dataset_artifact(config)
    results = {
        **{"num_train_samples": 8885, "num_test_samples": 148, "num_tokens": 508916},
        **{"num_unknown_tokens": 12, "num_padding": 51130, "num_positions": 578112},
        **{"unknown_character_share": 0.0001, "altered_character_share": 0.0},
        **{"masked_share": 0.146, "masked_lm_prob": 0.15, "max_predictions_per_seq": 20},
        **{"vocab_size": 30522, "max_seq_length": 128, "masking": "static", "packed": False},
        **{"next_sentence": False, "lengths": [29, 100, 117, 115, 107, 133, 99, 7489]},
        **{"train_shards": {}, "test_shards": {}},
    }
    artifact.begin()
    text = {"shards": {}, "counts": {}, "notes": []}
    write_card(artifact.directory, ["text: a"], text, results, {"a": 1}, SAMPLE_OF_TEXT)
    artifact.finish(results)
    artifact.record_time(95.0)
    root = Path(config.SYSTEM.OUTPUT_ROOT)
    write_text(log_path(root, "dataset", artifact.directory.name), "done\n")


def _pretrain(config) -> None:
    """Writes 1000 steps of pretraining, one with a missing loss."""
    artifact = pretrain_artifact(config)
    artifact.begin()
    lines = []
    for step in range(50, 1001, 50):
        loss = None if step == 300 else 5 * math.exp(-step / 400) + 2 + 0.1 * math.sin(step)
        speed = {"samples_per_second": 300 + step % 7, "tokens_per_second": 18e3, "peak_share": 0.4}
        kind = {"kind": "train", "step": step, "lr": 1e-3 * (1 - step / 1001)}
        lines.append({**kind, "loss": loss, "elapsed_seconds": step * 0.2, **speed})
        if step % 200 == 0:
            held_out = {"loss": 5 * math.exp(-step / 400) + 2.1, "accuracy": 0.3}
            lines.append({"kind": "validation", "step": step, **held_out})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_text(artifact.directory / "metrics.jsonl", text)
    done = {"step": 1000, "samples": 4096000, "tokens": 384123456, "train_loss": 2.41}
    artifact.finish({**done, "validation_loss": 2.51, "validation_accuracy": 0.3})


def finish_search(config, skip=(), signal=0.0) -> None:
    """Writes the records of finetuning. skip, signal: see `make_finished_search`."""
    artifact, search = finetune_artifact(config), load_search(config)
    artifact.begin()
    if signal:
        write_demo_glue(demo_glue_dir(search.root))
    rows, scores = [], {}
    for number, job in enumerate(search.jobs):
        if (job.epochs, job.learning_rate) in skip:
            continue
        task = next(task for task in search.tasks if task.name == job.task)
        score = 0.5 + 0.01 * (number % 37) + 0.001 * job.seed
        majority = {} if task.is_regression else {"label": next(iter(task.labels)), "score": 0.6}
        row = {
            **{"score": score, "num_steps": 40, "num_train_rows": 400, "seconds": 12.0},
            "dev": {split.name: dict.fromkeys(task.metrics, score) for split in task.dev},
            "majority": majority,
            **{"only_label": "", "num_malformed_rows": 0, "num_unlabelled_rows": 0},
            **{"max_seq_length": 64, "max_seq_length_asked": 128},
            "tokenization": {split.name: tokenization(0.021) for split in task.splits},
        }
        if signal and (job.epochs, job.batch_size) == (search.jobs[0].epochs, 16):
            row |= predict_dev(search, task, job, signal)
            score = row["score"]
        write_result(search.make_run(job, None), {**row, **_curves(job)})
        write_text(search.log(job.task, search.name, job.setting), "done\n")
        keys = ("task", "setting", "epochs", "batch_size", "learning_rate", "seed", "stilt")
        rows.append({**{key: getattr(job, key) for key in keys}, **row})
        scores[job] = score
    best = {
        task.name: best_job({job: scores[job] for job in scores if job.task == task.name}).setting
        for task in search.tasks
    }
    for task in search.tasks:
        _predict(search.task_dir(task.name) / best[task.name], task)
    ids = {"dataset_id": search.model.dataset_id, "pretrain_id": search.model.pretrain_id}
    kind = "halving" if skip else "grid"
    found = {**ids, "model": search.model.path, "search": kind, "best": best, "runs": rows}
    write_json(artifact.directory / "summary.json", found)
    artifact.finish({"best": best, "num_runs": len(rows)})
    artifact.record_time(310.0)


def predict_dev(search, task, job, signal: float) -> dict:
    """Writes the dev predictions of a run; returns its score and metrics.

    signal: of the right answer, against noise with a standard deviation of 1; the higher learning
    rates have less of it, so the first setting is the best.
    """
    signal /= 1 + 1e5 * (job.learning_rate - search.jobs[0].learning_rate)
    dev = {}
    for split in task.dev:
        examples = load_examples(task, split, search.data_dir(task))
        noise = np.random.default_rng([job.seed, len(split.name)])
        if task.is_regression:
            errors = noise.normal(size=(len(examples.labels), 1)) / signal
            outputs = np.array(examples.labels)[:, None] + errors
        else:
            outputs = noise.normal(size=(len(examples.labels), len(task.labels)))
            outputs[np.arange(len(outputs)), examples.labels] += signal
        found = predictions_of(task, outputs.astype(np.float32), examples)
        write_dev_predictions(dev_predictions_path(search.job_dir(job), split), found)
        dev[split.name] = score_predictions(task, outputs, examples)
    return {"dev": dev, "score": task_score(dev)}


def tokenization(truncated=0.0, cut=0.0, unknown=0.0) -> dict:
    """Returns a split's token counts; the shares are of samples, tokens and characters."""
    return {
        **{"num_samples": 1234, "truncated_share": truncated, "cut_share": cut},
        **{"unknown_share": 0.015, "unknown_character_share": unknown},
    }


def _curves(job) -> dict:
    steps = range(4, 41, 4)
    history = [
        {
            "step": step,
            "epoch": step * job.epochs / 40,
            "loss": math.exp(-step / 20),
            "learning_rate": job.learning_rate * (1 - step / 41),
        }
        for step in steps
    ]
    evaluations = [
        {"step": step, "epoch": step * job.epochs / 40, "score": step / 50} for step in (20, 40)
    ]
    return {"history": history, "evaluations": evaluations}


def _predict(folder: Path, task) -> None:
    """Writes predictions: GLUE's expected number of rows, 3 for other test sets."""
    for split in task.test:
        value = "2.5" if task.is_regression else next(iter(task.labels))
        num_rows = split.num_rows if task.benchmark == "GLUE" else 3
        rows = "".join(f"{index}\t{value}\n" for index in range(num_rows))
        write_text(predictions_path(folder, split), f"index\tprediction\n{rows}")
