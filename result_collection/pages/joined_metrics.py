"""The metrics of a pretraining run over all its phases."""

from collections.abc import Mapping
from typing import Any

from pipeline.store.paths import METRICS
from pretrain.plan import PretrainPlan
from pretrain.training.metrics_file import read_metrics

# Counted from 0 in each phase.
COUNTS = ("step", "samples", "tokens", "elapsed_seconds")


def joined_metrics(plan: PretrainPlan) -> tuple[list[dict[str, Any]], list[int]]:
    """Returns the lines of all phases, counted on, and the first step of each phase but the first.

    Leaves out the validations before the first step of a later phase: the chart would join them
    with the end of the phase before.
    """
    lines: list[dict[str, Any]] = []
    begins: list[int] = []
    done = dict.fromkeys(COUNTS, 0)
    for link in plan.links:
        own = read_metrics(link.artifact.directory / METRICS)
        if link.phase > 1:
            own = [line for line in own if line["step"]]
            begins.append(done["step"])
        lines += [_counted_on(line, done) for line in own]
        for name in COUNTS:
            done[name] = max([done[name], *(line[name] for line in lines if name in line)])
    return lines, begins


def _counted_on(line: Mapping[str, Any], done: Mapping[str, float]) -> dict[str, Any]:
    return {
        name: value + done.get(name, 0) if name in COUNTS else value for name, value in line.items()
    }
