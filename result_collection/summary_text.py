"""A search's summary as text: the console's table, summary.tsv, and lines that explain them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dataset.tokenizers.unknown_text import WARNING_SHARE
from finetune.data.token_counts import WARN_CUT
from finetune.search.job_folder import ASKED_LENGTH
from pipeline.console import table
from result_collection.entity_notes import notes_on_entities
from result_collection.label_set_notes import notes_on_label_sets
from result_collection.pages.numbers import points

DIAGNOSTICS = {
    "MNLI": "predictions for AX are those of the submitted MNLI run",
    "SuperGLUE-RTE": "predictions for AX-b and AX-g are those of the submitted SuperGLUE-RTE run",
}
INTERVAL = "95 %"
SPREAD = ("min", "max", "stdev")
TSV_HEADER = [
    *("task", "benchmark", "score", "mean", "95 % from", "95 % to"),
    *(
        "min",
        "max",
        "sd",
        "seeds",
        "metrics (dev)",
        "majority",
        "runs",
        "best setting",
        "submitted run",
        "tokens per sample",
    ),
    *("% of samples truncated", "% of tokens cut", "% of characters unknown"),
]
# Shares of a split's tokenization, in the order of the columns.
SHARES = ("truncated_share", "cut_share", "unknown_character_share")


def as_text(summary: Mapping[str, Any]) -> str:
    """Returns the table for the console, and lines that explain it."""
    found = [*summary["tasks"], *summary["averages"]]
    columns = ["score", *_columns_of_spread(found)]
    rows = [["task", *columns, "metrics (dev)", "majority", "runs", "best setting"]]
    for row in summary["tasks"]:
        cells = [row["task"], points(row["score"]), *_spread_cells(row, columns)]
        cells += [metrics_text(row), majority_text(row), str(row["num_runs"]), setting_text(row)]
        rows.append(cells)
    for average in summary["averages"]:
        name = f"{average['name']}: {average_of(average['over'])}"
        cells = [name, points(average["value"]), *_spread_cells(average, columns)]
        rows.append([*cells, *[""] * (len(rows[0]) - len(cells))])
    sources = ", ".join(f"{name} from {place}" for name, place in summary["sources"].items())
    lines = [table(rows), f"data: {sources}", f"numbers: {summary['scoring']}", *notes(summary)]
    return "\n".join(lines)


def _columns_of_spread(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the columns between score and metrics, as few as tell it all."""
    spread = any(row.get("spread") for row in rows)
    if any("interval" in row for row in rows):
        return [INTERVAL, *(["sd"] if spread else [])]
    return ["range, sd"] if spread else []


def _spread_cells(row: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    spread = row.get("spread")
    texts = {
        INTERVAL: interval_text(row),
        "sd": points(spread["stdev"]) if spread else "",
        "range, sd": spread_text(row) if spread else "",
    }
    return [texts[column] for column in columns if column in texts]


def as_tsv(summary: Mapping[str, Any]) -> str:
    """Returns summary.tsv: a line for each task, then for each average."""
    rows = [TSV_HEADER]
    for row in summary["tasks"]:
        spread = [points(row["spread"][key]) if row["spread"] else "" for key in SPREAD]
        cells = [row["task"], row["benchmark"], points(row["score"]), *_estimate_cells(row)]
        cells += spread
        cells += [str(row["num_seeds"]), metrics_text(row), majority_text(row)]
        cells += [str(row["num_runs"]), setting_text(row), row["submitted"]["setting"]]
        shares = [share_text(row, share) for share in SHARES]
        rows.append([*cells, str(row.get("max_seq_length", "")), *shares])
    for average in summary["averages"]:
        cells = [average_of(average["over"]), average["name"], points(average["value"])]
        cells += _estimate_cells(average)
        rows.append([*cells, *[""] * (len(TSV_HEADER) - len(cells))])
    return "".join("\t".join(row) + "\n" for row in rows)


def _estimate_cells(row: Mapping[str, Any]) -> list[str]:
    """Returns the mean over the seeds and both ends of its interval."""
    if "interval" not in row:
        return ["", "", ""]
    return [points(value) for value in (row["mean"], *row["interval"])]


def interval_text(row: Mapping[str, Any]) -> str:
    """Returns `81.2..84.0`, the 95 % interval of a task's or an average's score; empty for none."""
    if "interval" not in row:
        return ""
    low, high = row["interval"]
    return f"{points(low)}..{points(high)}"


def average_of(tasks: Sequence[str]) -> str:
    """Returns `average of 9 tasks`."""
    return f"average of {len(tasks)} task{'s' if len(tasks) > 1 else ''}"


def spread_text(row: Mapping[str, Any]) -> str:
    """Returns `84.9..86.7, 0.9`: the range over the seeds and the standard deviation."""
    spread = row["spread"]
    if not spread:
        return ""
    return f"{points(spread['min'])}..{points(spread['max'])}, {points(spread['stdev'])}"


def metrics_text(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {points(value)}" for name, value in row["metrics"].items())


def share_text(row: Mapping[str, Any], share: str) -> str:
    """Returns `train 12.0, dev 11.5`: per cent of each split."""
    return ", ".join(f"{name} {points(counts[share])}" for name, counts in splits_of(row))


def splits_of(row: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Returns names and token counts of the splits train, dev, test; empty for old results."""
    order = ("train", "dev", "test")

    def place(name: str) -> int:
        return next((i for i, start in enumerate(order) if name.startswith(start)), len(order))

    return sorted(row.get("tokenization", {}).items(), key=lambda split: place(split[0]))


def majority_text(row: Mapping[str, Any]) -> str:
    return points(row["majority"]["score"]) if row["majority"] else ""


def setting_text(setting: Mapping[str, Any]) -> str:
    """Returns the name of a run's folder, without the seed."""
    learning_rate, size = setting["learning_rate"], setting["batch_size"]
    return f"lr{learning_rate!r}_bs{size}_ep{setting['epochs']}"


def notes(summary: Mapping[str, Any]) -> list[str]:
    """Returns lines on intervals, incomplete averages, left-out rows, and constant submissions."""
    lines = [*_notes_on_intervals(summary), *summary.get("without_estimates", ())]
    lines += [
        f"not {average['name']}'s average, it lacks {', '.join(average['lacks'])}"
        for average in summary["averages"]
        if average["lacks"] and average["name"] in summary["sources"]
    ]
    for row in summary["tasks"]:
        lines += _notes_on_rows(row)
        lines += _notes_on_texts(row)
        lines += notes_on_entities(row)
        lines += notes_on_label_sets(row)
        if k := row["num_folds"]:
            lines.append(
                f"{row['task']}: scores are means over {k} folds of TRAIN, range and sd are those "
                "of all runs; the submitted run learned from all rows"
            )
        if row["submits_majority"]:
            lines.append(
                f"{row['task']}: the search did not beat the majority label "
                f"({points(row['score'])} against {points(row['majority']['score'])} on the dev "
                f"set), so {row['majority']['label']} is submitted for all rows"
            )
        elif row.get("only_label"):
            lines.append(
                f"{row['task']}: the submitted run answers {row['only_label']} for every dev row, "
                "so its score is that of a constant"
            )
        if row["task"] in DIAGNOSTICS:
            lines.append(DIAGNOSTICS[row["task"]])
    return lines


def _notes_on_intervals(summary: Mapping[str, Any]) -> Iterator[str]:
    rows = [row for row in summary["tasks"] if "interval" in row]
    if not rows:
        return
    several = [row for row in rows if row["num_seeds"] > 1]
    of, seeds = (" of the mean over the seeds", " and other seeds") if several else ("", "")
    yield f"{INTERVAL}: the interval{of}, for other dev rows{seeds}"
    if several:
        means = ", ".join(f"{row['task']} {points(row['mean'])}" for row in several)
        yield f"means over the seeds: {means}"
    for row in rows:
        if row["num_folds"]:
            yield f"{row['task']}: the interval is that of all folds' rows together"


def _notes_on_rows(row: Mapping[str, Any]) -> Iterator[str]:
    reasons = {"num_malformed_rows": "unreadable", "num_unlabelled_rows": "having no label"}
    for key, reason in reasons.items():
        if number := row.get(key, 0):
            yield (
                f"{row['task']}: {number} row{'s' if number > 1 else ''} of the training and dev "
                f"files left out as {reason}; the log of the submitted run names them"
            )


def _notes_on_texts(row: Mapping[str, Any]) -> Iterator[str]:
    """Yields warnings of truncated and unknown text."""
    task = row["task"]
    truncated, cut, unknown = (
        max((counts[share] for _, counts in splits_of(row)), default=0.0) for share in SHARES
    )
    if max(truncated, cut) > WARN_CUT:
        asked = f", {row[ASKED_LENGTH]} were asked for" if ASKED_LENGTH in row else ""
        yield (
            f"{task}: up to {points(truncated)} % of a set's samples are truncated to "
            f"{row['max_seq_length']} tokens ({points(cut)} % of its tokens are cut){asked}"
        )
    elif ASKED_LENGTH in row:
        yield (
            f"{task}: samples have at most {row['max_seq_length']} tokens, as the model has no "
            f"more positions; {row[ASKED_LENGTH]} were asked for"
        )
    if unknown > WARNING_SHARE:
        yield (
            f"{task}: up to {points(unknown)} % of a set's characters are unknown to the model's "
            "tokenizer"
        )


def headline(summary: Mapping[str, Any]) -> str:
    """Returns `GLUE: average of 9 tasks 82.1 (dev, builtin:demo); own tasks: ...`."""
    return "; ".join(
        f"{average['name']}: {average_of(average['over'])} {points(average['value'])} "
        f"({_interval_first(average)}dev, {summary['sources'][average['name']]})"
        for average in summary["averages"]
        if average["name"] in summary["sources"]
    )


def _interval_first(average: Mapping[str, Any]) -> str:
    text = interval_text(average)
    return f"{INTERVAL}: {text}; " if text else ""
