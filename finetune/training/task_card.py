"""The README.md of a finetuned model: how to use it, its data, results and settings.

It holds no text of a row, and no path of a file. The worker writes it; the result stage writes it
again with the intervals of the scores, unless somebody has changed it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from finetune.data.tasks import Task
from finetune.kept_models import has_tags, pipeline_name, pipeline_options
from finetune.search.job_folder import TrainingSettings
from finetune.tagging.tag_checks import types_of
from finetune.task_types.windows import OVERLAP

SETTINGS = (
    *("epochs", "batch_size", "learning_rate", "seed", "weight_decay", "warmup"),
    *("lr_scheduler_type", "max_grad_norm"),
)
SHOWN_LABELS = 30
# The last line; it holds a digest of the others.
MARK = "<!-- Written by ExtremeBERT, which adds to it unless it is changed: {} -->\n"
ANSWERS = {
    "classification": "Gives a text one of {number} labels",
    "regression": "Gives a text a score",
    "multi_label": "Gives a text any number of {number} labels",
    "token_classification": "Finds entities of {number} types in a text",
}


def task_card(
    task: Task,
    settings: TrainingSettings,
    result: Mapping[str, Any],
    config: Mapping[str, Any],
    found: Mapping[str, Any] | None = None,
) -> str:
    """Returns the card as Markdown with front matter.

    result: of the run. config: the model's config.json. found: the task's row in the summary of its
    search, None before that.
    """
    needs_code = "auto_map" in config
    parts = [
        _front_matter(task, config["model_type"], needs_code),
        f"# A model for {task.name}, finetuned with ExtremeBERT",
        _answer(task),
        _use(task, result, needs_code),
        "## Data\n\n" + _table(_data(result)),
        _results(task, result, found),
        "## Settings\n\n" + _table({name: getattr(settings, name) for name in SETTINGS}),
    ]
    text = "\n\n".join(filter(None, parts)) + "\n\n"
    return text + MARK.format(_digest(text))


def is_unchanged(card: str) -> bool:
    """True if a card is what `task_card` has returned, also with other results."""
    text = card[: card.rfind("<!--")]
    return card == text + MARK.format(_digest(text))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _front_matter(task: Task, model_type: str, needs_code: bool) -> str:
    tags = ["extremebert", model_type, *(["custom_code"] if needs_code else [])]
    lines = "\n".join(f"- {tag}" for tag in tags)
    return (
        f"---\nlibrary_name: transformers\npipeline_tag: {pipeline_name(task)}\ntags:\n{lines}\n---"
    )


def _answer(task: Task) -> str:
    labels = types_of(task) if has_tags(task) else list(task.labels)
    answer = ANSWERS[task.type].format(number=len(labels))
    if task.is_regression:
        low, high = task.score_range
        return f"{answer} from {low:g} to {high:g}."
    more = f" and {len(labels) - SHOWN_LABELS} more" if len(labels) > SHOWN_LABELS else ""
    return f"{answer}: {', '.join(labels[:SHOWN_LABELS])}{more}."


def _use(task: Task, result: Mapping[str, Any], needs_code: bool) -> str:
    trust, why = "", ""
    if needs_code:
        trust = ", trust_remote_code=True"
        why = (
            " transformers has no such architecture: its code lies in this folder, hence "
            "`trust_remote_code=True`."
        )
    output = "out.conll" if has_tags(task) else "out.csv"
    is_pair = len(task.text_columns) == 2
    text = '{"text": "One text.", "text_pair": "Another."}' if is_pair else '"One text."'
    cut = ", truncation=True"
    if has_tags(task):  # long texts are cut into windows
        cut = f", stride={result['max_seq_length'] // OVERLAP}"
    options = pipeline_options(task) + cut + trust
    return f"""## Use

`FOLDER` stands for this folder.{why}

```python
from transformers import pipeline

model = pipeline("{pipeline_name(task)}", model="FOLDER"{options})
print(model({text}))
```
{_meaning(result.get("decision", {}))}
For files, ExtremeBERT has `python -m finetune.predict FOLDER FILE --output {output}`."""


def _meaning(decision: Mapping[str, float]) -> str:
    threshold = decision.get("threshold")
    if threshold is None:
        return ""
    return f"\nA text has all labels with a `score` of {threshold} or more, which may be none.\n"


def _data(result: Mapping[str, Any]) -> dict[str, Any]:
    splits = result["tokenization"].values()
    truncated = max((split["truncated_share"] for split in splits), default=0.0)
    return {
        "training rows": result["num_train_rows"],
        "dev rows": result["num_dev_rows"],
        "tokens per sample": result["max_seq_length"],
        "truncated samples, at most": f"{100 * truncated:.1f} %",
    }


def _results(task: Task, result: Mapping[str, Any], found: Mapping[str, Any] | None) -> str:
    several = len(result["dev"]) > 1
    own: dict[str, Any] = {
        f"{split} {name}" if several else name.replace("_", " "): value
        for split, metrics in result["dev"].items()
        for name, value in metrics.items()
    }
    columns = {"": own}
    if found:
        own = dict(zip(found["metrics"], own.values(), strict=False))
        columns = _columns(own, found)
    if not (names := list(dict.fromkeys(name for values in columns.values() for name in values))):
        return ""
    more = _more(task, result, (found or result)["majority"])
    first = next(iter(columns))
    columns[first] = columns[first] | more
    rows = {
        name: " | ".join(_shown(values.get(name, "")) for values in columns.values())
        for name in (*names, *more)
    }
    return f"## Results\n\n{_explained(found)}\n\n{_table(rows, list(columns))}"


def _more(task: Task, result: Mapping[str, Any], constant: Mapping[str, Any]) -> dict[str, Any]:
    """Returns results without an interval: further scores, the F1 of each label or type of entity.

    constant: the majority label and its score, or none.
    """
    more: dict[str, Any] = {}
    if constant:
        always = f"always {constant['label']}"
        answer = "looking up the entities of training" if has_tags(task) else always
        more[f"score of {answer}"] = constant["score"]
    for split, found in result.get("details", {}).items():
        means = {name: value for name, value in found.items() if isinstance(value, float)}
        more |= {
            name.replace("_", " "): value
            for name, value in means.items()
            if name not in result["dev"][split]
        }
        parts = found.get("per_type") or found.get("per_label") or {}
        more |= {f"f1 of {name}": scores["f1"] for name, scores in parts.items()}
    return more | {
        name.replace("_", " "): value for name, value in result.get("decision", {}).items()
    }


def _columns(own: dict[str, Any], found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the results by column, from the row of a summary."""
    columns = {"this model": own} if own else {}
    known = found.get("metric_estimates", {})
    if found["num_folds"]:
        columns[f"mean over {found['num_folds']} folds"] = found["metrics"]
    elif known and found["num_seeds"] > 1:
        means = {name: estimate["mean"] for name, estimate in known.items()}
        columns[f"mean over {found['num_seeds']} seeds"] = means
    if known:
        columns["95 % interval"] = {
            name: "{:.3f} to {:.3f}".format(*estimate["interval"])
            for name, estimate in known.items()
        }
    return columns


def _explained(found: Mapping[str, Any] | None) -> str:
    chosen = "the best of several runs may have been chosen"
    if found and found["num_runs"] > 1:
        chosen = f"the best of {found['num_runs']} runs was chosen"
    text = f"On the dev rows, by which {chosen}: expect a little less on new text."
    if found and found["num_folds"]:
        text += (
            " Each fold was scored by a model of the other folds; this model has learned from all "
            "rows."
        )
    if found and "metric_estimates" in found:
        seeds = " and other seeds" if found["num_seeds"] > 1 else ""
        text += f" With other dev rows{seeds}, scores are in the interval 95 times of 100."
    return text


def _table(rows: Mapping[str, Any], columns: Sequence[str] = ("",)) -> str:
    lines = [f"| {name} | {_shown(value)} |" for name, value in rows.items()]
    head = "".join(f" {name} |" for name in columns).replace("  ", " ")
    return "\n".join([f"| |{head}", "|---|" + "---|" * len(columns), *lines])


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return str(round(value, 4))
    return f"{value:,}" if isinstance(value, int) else str(value)
