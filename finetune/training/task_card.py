"""The README.md of a finetuned model: how to use it, its data, results and settings.

It holds no text of a row, and no path of a file.
"""

from collections.abc import Mapping
from typing import Any

from finetune.data.tasks import Task
from finetune.kept_models import has_tags, pipeline_name, pipeline_options
from finetune.search.job_folder import TrainingSettings
from finetune.tagging.tag_checks import types_of
from finetune.task_types.windows import OVERLAP
from finetune.training.training import Outcome

SETTINGS = (
    *("epochs", "batch_size", "learning_rate", "seed", "weight_decay", "warmup"),
    *("lr_scheduler_type", "max_grad_norm"),
)
SHOWN_LABELS = 30
ANSWERS = {
    "classification": "Gives a text one of {number} labels",
    "regression": "Gives a text a score",
    "multi_label": "Gives a text any number of {number} labels",
    "token_classification": "Finds entities of {number} types in a text",
}


def task_card(outcome: Outcome, task: Task, settings: TrainingSettings) -> str:
    """Returns the card as Markdown with front matter."""
    parts = [
        _front_matter(outcome, task),
        f"# A model for {task.name}, finetuned with ExtremeBERT",
        _answer(task),
        _use(outcome, task),
        "## Data\n\n" + _table(_data(outcome)),
        _results(outcome, task),
        "## Settings\n\n" + _table({name: getattr(settings, name) for name in SETTINGS}),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(outcome: Outcome, task: Task) -> str:
    tags = ["extremebert", outcome.model.config.model_type]
    if _needs_code(outcome):
        tags.append("custom_code")
    lines = "\n".join(f"- {tag}" for tag in tags)
    return (
        f"---\nlibrary_name: transformers\npipeline_tag: {pipeline_name(task)}\ntags:\n{lines}\n---"
    )


def _needs_code(outcome: Outcome) -> bool:
    return type(outcome.model).__module__.startswith("pretrain.")


def _answer(task: Task) -> str:
    labels = types_of(task) if has_tags(task) else list(task.labels)
    answer = ANSWERS[task.type].format(number=len(labels))
    if task.is_regression:
        low, high = task.score_range
        return f"{answer} from {low:g} to {high:g}."
    more = f" and {len(labels) - SHOWN_LABELS} more" if len(labels) > SHOWN_LABELS else ""
    return f"{answer}: {', '.join(labels[:SHOWN_LABELS])}{more}."


def _use(outcome: Outcome, task: Task) -> str:
    trust, why = "", ""
    if _needs_code(outcome):
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
        cut = f", stride={outcome.tokenization.max_seq_length // OVERLAP}"
    options = pipeline_options(task) + cut + trust
    return f"""## Use

`FOLDER` stands for this folder.{why}

```python
from transformers import pipeline

model = pipeline("{pipeline_name(task)}", model="FOLDER"{options})
print(model({text}))
```
{_meaning(outcome)}
For files, ExtremeBERT has `python -m finetune.predict FOLDER FILE --output {output}`."""


def _meaning(outcome: Outcome) -> str:
    threshold = outcome.decision.get("threshold")
    if threshold is None:
        return ""
    return f"\nA text has all labels with a `score` of {threshold} or more, which may be none.\n"


def _data(outcome: Outcome) -> dict[str, Any]:
    shares = [counts.shares for counts in outcome.tokenization.splits.values()]
    truncated = max((share["truncated_share"] for share in shares), default=0.0)
    return {
        "training rows": outcome.counts["num_train_rows"],
        "dev rows": outcome.counts["num_dev_rows"],
        "tokens per sample": outcome.tokenization.max_seq_length,
        "truncated samples, at most": f"{100 * truncated:.1f} %",
    }


def _results(outcome: Outcome, task: Task) -> str:
    several = len(outcome.dev) > 1
    rows: dict[str, Any] = {
        f"{split} {name}" if several else name.replace("_", " "): round(value, 4)
        for split, metrics in outcome.dev.items()
        for name, value in metrics.items()
    }
    if outcome.majority:
        constant = f"of always {outcome.majority['label']}"
        name = f"score {'of looking up the entities of training' if has_tags(task) else constant}"
        rows[name] = round(outcome.majority["score"], 4)
    rows |= _details(outcome)
    if not rows:
        return ""
    rows |= {name.replace("_", " "): value for name, value in outcome.decision.items()}
    return (
        "## Results\n\nOn the dev rows, by which the best of several runs may have been chosen: "
        f"expect a little less on new text.\n\n{_table(rows)}"
    )


def _details(outcome: Outcome) -> dict[str, float]:
    """Returns further scores, and the F1 of each label or type of entity."""
    rows: dict[str, float] = {}
    for split, found in outcome.details.items():
        means = {name: value for name, value in found.items() if isinstance(value, float)}
        rows |= {
            name.replace("_", " "): round(value, 4)
            for name, value in means.items()
            if name not in outcome.dev[split]
        }
        parts = found.get("per_type") or found.get("per_label") or {}
        rows |= {f"f1 of {name}": round(scores["f1"], 4) for name, scores in parts.items()}
    return rows


def _table(rows: Mapping[str, Any]) -> str:
    lines = [f"| {name} | {_shown(value)} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
