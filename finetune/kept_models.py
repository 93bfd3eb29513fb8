"""The finetuned models of a search: where they are, and how to use them."""

from collections.abc import Mapping
from pathlib import Path

from configs.finetune_rules import TAGS
from finetune.data.tasks import Task
from finetune.search.job_folder import has_model, model_path
from finetune.search.search import Search
from pipeline.store.record_files import read_json

# Types with another pipeline of transformers than `text-classification`.
PIPELINES = {TAGS: "token-classification"}


def kept_models(search: Search, best: Mapping[str, str]) -> dict[str, Path]:
    """Returns the folder of each task's best model, if it was kept. best: setting by task."""
    folders = {task: search.task_dir(task) / setting for task, setting in best.items()}
    return {task: model_path(folder) for task, folder in folders.items() if has_model(folder)}


def pipeline_name(task: Task) -> str:
    """Returns the name of transformers' pipeline for a task."""
    return PIPELINES.get(task.type, "text-classification")


def has_tags(task: Task) -> bool:
    """True for named entities."""
    return task.type == TAGS


def pipeline_options(task: Task) -> str:
    """Returns the options for whole entities, and for the probabilities of all labels."""
    if has_tags(task):
        return ', aggregation_strategy="first"'
    return ", top_k=None" if task.has_label_sets else ""


def lines_of_use(models: Mapping[str, Path], tasks: tuple[Task, ...]) -> list[str]:
    """Returns a line with the models' places, and three that use the first one."""
    if not models:
        return []
    task = next(task for task in tasks if task.name in models)
    model = models[task.name]
    file = "texts.conll" if has_tags(task) else "texts.csv"
    output = f"predicted{Path(file).suffix}"
    needs_code = "auto_map" in (read_json(model / "config.json") or {})
    trust = ", trust_remote_code=True" if needs_code else ""
    options = pipeline_options(task) + trust
    return [
        _places(models),
        "use one, on a file or in Python:",
        f"  python -m finetune.predict {model} {file} --output {output}",
        "  from transformers import pipeline",
        f'  model = pipeline("{pipeline_name(task)}", model="{model}"{options})',
    ]


def _places(models: Mapping[str, Path]) -> str:
    """Returns one line: a path, or a pattern with `*` where the paths of several models differ."""
    if len(models) == 1:
        [(name, folder)] = models.items()
        return f"model of {name}: {folder}"
    parts = zip(*(folder.parts for folder in models.values()), strict=True)
    pattern = Path(*(same.pop() if len(same := set(part)) == 1 else "*" for part in parts))
    return f"models of {len(models)} tasks: {pattern}"
