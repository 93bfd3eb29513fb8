"""What the measured speeds mean: beside the goals of the project, and the paper's run."""

from collections.abc import Iterable, Iterator
from typing import Any

PAPER_STEPS, PAPER_BATCH, PAPER_GPUS = 23_000, 4_096, 8
PAPER_HOURS = 1.3 * 24  # on 8 RTX 3090 (ExtremeBERT, table 1)
GOAL_HOURS = 21.0  # there
# Model -> tokens/s, padding included, to be reached with 128 tokens on an H100 or H200.
HOPPER_GOALS = {"12x768": 600_000, "modernbert-base": 300_000}
PAPER_MODEL = "24x1024"


def best_speeds(measured: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The fastest measurement of each model. measured: numbers of section speed."""
    best: dict[str, dict[str, Any]] = {}
    for numbers in measured:
        model = numbers.get("model")
        rate = numbers.get("samples_per_second", 0.0)
        if model and rate > best.get(model, {}).get("samples_per_second", 0.0):
            best[model] = numbers
    return best


def paper_hours(samples_per_second: float) -> float:
    """Of the paper's run on its number of GPUs, if each is that fast."""
    return PAPER_STEPS * PAPER_BATCH / (PAPER_GPUS * samples_per_second) / 3600


def goals(card: str, measured: Iterable[dict[str, Any]]) -> Iterator[str]:
    """A line for each goal and each expected figure. card: torch's name of the GPU."""
    best = best_speeds(measured)
    is_hopper = "H100" in card or "H200" in card
    for model, goal in HOPPER_GOALS.items():
        if model in best:
            found = best[model]["positions_per_second"]
            word = _word(found >= goal) if is_hopper else "not this card's goal"
            yield f"{model}: {found:,.0f} tokens/s; goal on an H100 or H200: {goal:,} ({word})"
    for model, numbers in best.items():
        if expected := numbers["expected"]:
            found = numbers["samples_per_second"]
            yield f"{model}: {found:,.0f} samples/s, {found / expected:.0%} of the expected"
    if PAPER_MODEL in best:
        hours = paper_hours(best[PAPER_MODEL]["samples_per_second"])
        word = _word(hours <= GOAL_HOURS) if "3090" in card else "not this card's goal"
        yield (
            f"the paper's run on {PAPER_GPUS} of this card: {hours:.1f} h; goal on RTX 3090: "
            f"{GOAL_HOURS:.0f} h ({word}), its authors: {PAPER_HOURS:.0f} h"
        )


def _word(is_reached: bool) -> str:
    return "reached" if is_reached else "missed"
