"""The page of one run: report.json's content as HTML, the scores first."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pipeline.console import duration
from pipeline.store.paths import search_name
from result_collection.pages import charts
from result_collection.pages.numbers import epochs, points, rate
from result_collection.pages.page import (
    Content,
    Markup,
    document,
    facts,
    figure,
    fold,
    section,
    tag,
)
from result_collection.pages.page import table as html_table
from result_collection.summary import majority_text, metrics_text, notes, splits_of, spread_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Report = Mapping[str, Any]
# What a dataset's results are called on the page.
DATA_FACTS = {
    "num_train_samples": "training samples",
    "num_test_samples": "held-out samples",
    "num_tokens": "tokens",
    "vocab_size": "vocabulary",
    "max_seq_length": "tokens per sample, at most",
    "masking": "masking",
}
# Of a split of a task, in the order of the columns.
ALL_SHARES = ("truncated_share", "cut_share", "unknown_share", "unknown_character_share")
SHARES = {
    "masked_share": "tokens to be predicted",
    "unknown_character_share": "unknown characters",
    "altered_character_share": "characters that the tokenizer takes away or alters",
}
SECTIONS = {
    "scores": "Scores",
    "submission": "Submission",
    "search": "Search",
    "pretraining": "Pretraining",
    "dataset": "Data",
    "config": "Configuration",
    "run": "Machine and time",
}


# --- charts ----------------------------------------------------------------------------------


def draw_charts(report: Report) -> dict[str, "Figure"]:
    """All charts of a run by the names of their files; those that would show nothing are left out.

    They are `scores`, `pretraining-loss`, `pretraining-throughput`, `dataset-lengths`, and
    `grid-<task>` and `curves-<task>` of each task.
    """
    return dict(_charts(report))


def _charts(report: Report) -> Iterator[tuple[str, "Figure"]]:
    rows = report["summary"]["tasks"]
    yield "scores", charts.draw_scores(rows)
    for row in rows:
        if len(row["settings"]) > 1:
            yield f"grid-{row['task']}", charts.draw_grid(row["settings"])
        curves = report["finetuning"][row["task"]]
        if len(curves["history"]["epoch"]) > 1:
            drawn = charts.draw_finetuning([("", curves["history"], curves["evaluations"])])
            yield f"curves-{row['task']}", drawn
    trained = report["pretraining"]
    if trained and len(trained["train"]["step"]) > 1:
        yield (
            "pretraining-loss",
            charts.draw_losses([("", trained["train"], trained["validation"])]),
        )
        yield "pretraining-throughput", charts.draw_throughput([("", trained["train"])])
    if report["dataset"] and report["dataset"]["results"].get("lengths"):
        results = report["dataset"]["results"]
        yield "dataset-lengths", charts.draw_lengths(results["lengths"], results["max_seq_length"])


# --- the page --------------------------------------------------------------------------------


def report_page(report: Report, drawn: Mapping[str, "Figure"]) -> str:
    """The HTML of a run, with its charts."""
    title = f"{report['dataset_id']} / {searched(report)}"
    return document(
        title,
        _head(report),
        _scores(report, drawn),
        _submission(report),
        _search(report, drawn),
        _pretraining(report, drawn),
        _dataset(report, drawn),
        _config(report["config"]),
        _run(report),
    )


def searched(report: Report) -> str:
    """Returns the name of the search, of older reports that of the model."""
    return search_name(report["pretrain_id"], report.get("finetune_id", ""))


def _head(report: Report) -> Markup:
    sources = report["summary"]["sources"].items()
    data = ", ".join(f"{name} from {place}" for name, place in sources)
    model = "" if report["pretraining"] else f" Model: {report['summary']['model']}."
    links = [tag("a", name, href=f"#{anchor}") for anchor, name in SECTIONS.items()]
    return tag(
        "header",
        tag("p", f"ExtremeBERT report, {report['written_at']}", class_="kicker"),
        tag("h1", report["dataset_id"], " ", tag("small", searched(report))),
        tag("p", f"Data of the tasks: {data}.{model}"),
        tag("div", [_tile(*pair) for pair in _tiles(report)], class_="tiles"),
        tag("nav", links, aria_label="Sections"),
    )


def _tile(number: str, label: str) -> Markup:
    return tag("div", tag("b", number), tag("span", label), class_="tile")


def _tiles(report: Report) -> Iterator[tuple[str, str]]:
    for average in report["summary"]["averages"]:
        yield points(average["value"]), f"{average['name']}, average of {_tasks(average)} (dev)"
    results = (report["pretraining"] or {}).get("results", {})
    if "validation_loss" in results:
        yield f"{results['validation_loss']:.3f}", "validation loss of pretraining, nats per token"
    work = [stage["work"] for stage in report["stages"] if stage["work"]]
    if work:
        yield duration(sum(work)), "of training and finetuning"


def _tasks(average: Mapping[str, Any]) -> str:
    total = len(average["over"]) + len(average["lacks"])
    of_all = f" of {total}" if average["lacks"] else ""
    return f"{len(average['over'])}{of_all} task{'s' if total > 1 else ''}"


def _scores(report: Report, drawn: Mapping[str, "Figure"]) -> Markup:
    summary = report["summary"]
    chart = figure(
        drawn["scores"],
        "scores",
        "Dot: the score. Thick line: its range over the seeds, if there are several.",
        "Scores of all tasks: "
        + ", ".join(f"{row['task']} {points(row['score'])}" for row in summary["tasks"]),
    )
    return section(
        SECTIONS["scores"],
        chart,
        _scores_table(summary),
        [tag("p", line) for line in notes(summary)],
        _texts_table(summary),
        name="scores",
    )


def _texts_table(summary: Mapping[str, Any]) -> Content:
    """What the submitted runs have seen of their texts; nothing for reports of old versions."""
    header = ["task", "set", "samples", "tokens per sample, at most", "samples truncated"]
    header += ["tokens cut", "unknown tokens", "unknown characters"]
    rows: list[list[Content]] = [
        [
            row["task"],
            split,
            f"{counts['num_samples']:,}",
            str(row["max_seq_length"]),
            *(_percent(counts[share]) for share in ALL_SHARES),
        ]
        for row in summary["tasks"]
        for split, counts in splits_of(row)
    ]
    caption = (
        "What the model sees of the texts. One unknown token can hide a long word, so unknown text "
        "is counted in characters, too."
    )
    return html_table(caption, header, rows, range(2, len(header))) if rows else ""


def _scores_table(summary: Mapping[str, Any]) -> Markup:
    header = ["task", "score", "min..max, sd", "metrics (dev)", "majority label", "best setting"]
    rows: list[list[Content]] = [[*header, "runs"]]
    rows += [
        [
            row["task"],
            tag("b", points(row["score"])),
            tag("span", spread_text(row), class_="setting"),
            tag("span", metrics_text(row), class_="metrics"),
            majority_text(row),
            tag("span", setting_words(row), class_="setting"),
            str(row["num_runs"]),
        ]
        for row in summary["tasks"]
    ]
    rows += [
        [f"{average['name']} average", tag("b", points(average["value"])), "", _tasks(average)]
        + [""] * 3
        for average in summary["averages"]
    ]
    if not any(row["spread"] for row in summary["tasks"]):
        rows = [[*row[:2], *row[3:]] for row in rows]
    header, *rows = rows
    numbers = [header.index(name) for name in ("score", "majority label", "runs")]
    caption = f"All numbers are {summary['scoring']}."
    return html_table(caption, header, rows, numbers)


def setting_words(setting: Mapping[str, Any]) -> str:
    """`lr 5e-5, batch 32, 3 epochs`."""
    return (
        f"lr {rate(setting['learning_rate'])}, batch {setting['batch_size']}, "
        f"{epochs(setting['epochs'])}"
    )


def _submission(report: Report) -> Markup:
    submission = report["submission"]
    parts = [_zip(made) for made in submission["zips"]]
    own = submission["own_predictions"]
    if own:
        items = [tag("li", f"{task}: ", _link(path, path)) for task, path in own.items()]
        parts.append(Markup(tag("h3", "Predictions of own tasks") + tag("ul", items)))
    if not parts:
        parts = [tag("p", "No task of this search is one of a benchmark, and no own test set.")]
    return section(SECTIONS["submission"], parts, name="submission")


def _zip(made: Mapping[str, Any]) -> Markup:
    benchmark, problems = made["benchmark"], made["problems"]
    name = _link(f"../{made['zip']}", made["zip"]) if made["zip"] else "no zip was made"
    if not problems:
        state = tag("span", "ready to submit", class_="good")
        return tag("p", f"{benchmark}: ", state, "; ", name, ".")
    state = tag("span", "cannot be submitted", class_="bad")
    listed = tag("ul", [tag("li", problem) for problem in problems])
    return Markup(tag("p", f"{benchmark}: ", state, "; ", name, ".") + listed)


def _link(path: str, text: str) -> Markup:
    return tag("a", text, href=quote(path))


# --- the search ------------------------------------------------------------------------------


def _search(report: Report, drawn: Mapping[str, "Figure"]) -> Markup:
    summary = report["summary"]
    how = (
        "By successive halving: of the settings with the fewest epochs the better half went on "
        "with the next number of epochs, and so on."
        if summary["search"] == "halving"
        else "Every setting of the grid was run."
    )
    reading = (
        "The heat maps show the dev score of each setting, in colours from the lowest to the "
        "highest of the task; of several seeds it is the median, and below it stands the range. "
        "The best setting is framed."
    )
    tasks = [_task(row, report["finetuning"][row["task"]], drawn) for row in summary["tasks"]]
    grid = tag("div", tasks, class_="tasks")
    return section(SECTIONS["search"], tag("p", f"{how} {reading}"), grid, name="search")


def _task(
    row: Mapping[str, Any], curves: Mapping[str, Any], drawn: Mapping[str, "Figure"]
) -> Markup:
    task = row["task"]
    parts = [tag("h3", task), tag("p", _about_task(row, curves), class_="note")]
    figures = []
    if f"grid-{task}" in drawn:
        figures.append(
            figure(
                drawn[f"grid-{task}"],
                f"grid-{task}",
                "Dev scores of all settings.",
                f"Scores of {task} by learning rate, batch size and epochs: "
                + "; ".join(f"{setting_words(s)}: {points(s['score'])}" for s in row["settings"]),
            )
        )
    if f"curves-{task}" in drawn:
        figures.append(
            figure(
                drawn[f"curves-{task}"],
                f"curves-{task}",
                "The submitted run.",
                f"Training loss and learning rate of {task}'s submitted run over its epochs; the "
                f"last loss is {_last(curves['history']['loss'])}",
            )
        )
    kind = "task wide" if len(figures) > 1 else "task"
    return tag("div", *parts, tag("div", figures, class_="charts"), class_=kind)


def _about_task(row: Mapping[str, Any], curves: Mapping[str, Any]) -> str:
    words = [f"Best: {setting_words(row)}"]
    if row["stilt"]:
        words.append("from the best MNLI model (STILT)")
    num_rows, steps = curves["num_train_rows"], curves["num_steps"]
    if num_rows:
        words.append(f"{num_rows:,} training rows, {steps:,} steps")
    submitted = row["submitted"]
    if row["num_seeds"] > 1:
        words.append(f"submitted: seed {submitted['seed']} with {points(submitted['score'])}")
    runs = f"{row['num_runs']} run{'s' if row['num_runs'] != 1 else ''}"
    words.append(f"{runs} took {duration(row['seconds'])}")
    alone = "" if len(row["settings"]) > 1 else ". One setting only, so there is no heat map"
    return f"{'; '.join(words)}{alone}."


def _last(values: list[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    return f"{numbers[-1]:.3g}" if numbers else "unknown"


# --- pretraining and data --------------------------------------------------------------------


def _pretraining(report: Report, drawn: Mapping[str, "Figure"]) -> Markup:
    trained, name = report["pretraining"], "pretraining"
    if not trained:
        model = report["summary"]["model"]
        missing = tag("p", f"{model} was not pretrained by this run: there is nothing to show.")
        return section(SECTIONS[name], missing, name=name)
    results = trained["results"]
    values = {
        "steps": _count(results.get("step")),
        "samples": _count(results.get("samples")),
        "tokens, without padding": _count(results.get("tokens")),
        "training loss": _number(results.get("train_loss")),
        "validation loss": _number(results.get("validation_loss")),
        "validation accuracy": _percent(results.get("validation_accuracy")),
    }
    early = tag("p", "Stopped early.") if results.get("stopped_early") else ""
    rows = [(label, value) for label, value in values.items() if value]
    curves = _pretraining_curves(trained, drawn)
    return section(SECTIONS[name], facts(rows), early, curves, name=name)


def _pretraining_curves(trained: Mapping[str, Any], drawn: Mapping[str, "Figure"]) -> Markup:
    if "pretraining-loss" not in drawn:
        return tag("p", "No curve: too few steps.")
    losses = figure(
        drawn["pretraining-loss"],
        "pretraining-loss",
        "Losses and the learning rate over the steps.",
        "Losses of pretraining over the steps; the last validation loss is "
        + _last(trained["validation"]["loss"]),
    )
    throughput = figure(
        drawn["pretraining-throughput"],
        "pretraining-throughput",
        "Speed over the steps, between two lines of metrics, validation left out.",
        "Throughput of pretraining over the steps; the last number of tokens per second is "
        + _last(trained["train"]["tokens_per_second"]),
    )
    return tag("div", losses, throughput, class_="charts")


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _dataset(report: Report, drawn: Mapping[str, "Figure"]) -> Markup:
    data, name = report["dataset"], "dataset"
    if not data:
        missing = tag("p", "No dataset was prepared for this run.")
        return section(SECTIONS[name], missing, name=name)
    results = data["results"]
    known = [(label, results[key]) for key, label in DATA_FACTS.items() if key in results]
    rows = [(label, f"{v:,}" if isinstance(v, int) else str(v)) for label, v in known]
    rows += [(label, _percent(results[key])) for key, label in SHARES.items() if key in results]
    if results.get("num_positions"):
        padding = results["num_padding"] / results["num_positions"]
        rows.append(("padding", _percent(padding)))
    chart: Content = ""
    if "dataset-lengths" in drawn:
        counts = ", ".join(map(str, results["lengths"]))
        chart = figure(
            drawn["dataset-lengths"],
            "dataset-lengths",
            "Lengths of the samples, special tokens included.",
            f"Samples in {len(results['lengths'])} equal ranges of lengths up to "
            f"{results['max_seq_length']} tokens: {counts}",
        )
    card: Content = ""
    if data["card"]:
        card = fold("The dataset card, without its sample of the text", tag("pre", data["card"]))
    return section(SECTIONS[name], facts(rows), chart, card, name=name)


# --- settings, machine, time -----------------------------------------------------------------


def _config(config: Mapping[str, Any]) -> Markup:
    values, changed = config["values"], config["changed"]
    rows = [(tag("code", key), shown(values[key]), shown(old)) for key, old in changed.items()]
    table = html_table("Keys that differ from the defaults.", ("key", "value", "default"), rows)
    all_rows = [(tag("code", key), shown(value)) for key, value in values.items()]
    everything = html_table("Keys that hold secrets are left out.", ("key", "value"), all_rows)
    body = table if rows else tag("p", "No key differs from its default.")
    folded = fold(f"All {len(values)} keys", everything)
    return section(SECTIONS["config"], tag("div", body, folded, class_="config"), name="config")


def shown(value: Any) -> Content:
    """A value of the config as YAML would have it, on one line."""
    if value is None or value in ("", []):
        return tag("span", "not set", class_="note")
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    return rate(value) if isinstance(value, float) else str(value)


def _run(report: Report) -> Markup:
    rows = [
        (
            stage["stage"],
            duration(stage["seconds"]) if stage["seconds"] is not None else "not recorded",
            duration(stage["work"]) if stage["work"] else "",
            (stage["finished_at"] or "").replace("T", " "),
        )
        for stage in report["stages"]
    ]
    times = html_table(
        "Time: of the command that finished the stage, by the clock. Work: pretraining over all "
        "its restarts; the runs of the search added up, which may have run side by side.",
        ("stage", "time", "work", "finished"),
        rows,
        numbers=(1, 2),
    )
    links = [tag("li", _link(path, name)) for name, path in report["links"]]
    return section(
        SECTIONS["run"],
        times,
        tag("h3", "Machine"),
        tag("p", "The one that this report was written on.", class_="note"),
        facts(report["environment"]),
        tag("h3", "Logs and folders"),
        tag("ul", links) if links else tag("p", "None are left."),
        name="run",
    )
