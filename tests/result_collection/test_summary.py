"""The summary: which tasks, split and metrics a score stands for."""

import pytest

from result_collection.summary import as_text, as_tsv, summarize

RTE = {"setting": "lr5e-05_bs32_ep3_seed42", "score": 0.625, "dev": {"dev": {"accuracy": 0.625}}}
MRPC = {"setting": "a", "score": 0.85, "dev": {"dev": {"accuracy": 0.8, "f1": 0.9}}}
MNLI = {
    "setting": "b",
    "score": 0.7,
    "dev": {"dev_matched": {"accuracy": 0.69}, "dev_mismatched": {"accuracy": 0.71}},
}


def test_average_and_metrics():
    summary = summarize({"RTE": RTE, "MRPC": MRPC, "MNLI": MNLI}, "builtin:demo")
    assert summary["average"] == pytest.approx((0.625 + 0.85 + 0.7) / 3)
    assert summary["average_over"] == ["MRPC", "MNLI", "RTE"] and not summary["is_complete"]
    assert summary["split"] == "dev"
    text = as_text(summary)
    assert "matched accuracy 69.0, mismatched accuracy 71.0" in text
    assert "accuracy 80.0, f1 90.0" in text
    assert "average of 3 tasks  72.5" in text
    assert "builtin:demo: dev scores" in text
    assert "not GLUE's average, it lacks CoLA, SST-2, STS-B, QQP, QNLI, WNLI" in text


def test_tsv_has_a_line_per_task():
    assert as_tsv(summarize({"RTE": RTE}, "GLUE")) == (
        "task\tscore\tmetrics (dev)\tbest setting\n"
        "RTE\t62.5\taccuracy 62.5\tlr5e-05_bs32_ep3_seed42\n"
        "average of 1 tasks\t62.5\t\t\n"
    )
