"""Measured speeds beside the goals of the project and the paper's run."""

from collections.abc import Iterator, Sequence
from typing import Any

PAPER_STEPS, PAPER_BATCH, PAPER_GPUS, PAPER_MODEL = 23_000, 4_096, 8, "24x1024"
PAPER_HOURS = 1.3 * 24  # on 8 RTX 3090 (ExtremeBERT, table 1)
GOAL_HOURS = 21.0  # there
# Model -> goal in tokens/s on an H100 or H200, with rows of 128 tokens, padding included.
HOPPER_GOALS = {"12x768": 600_000, "modernbert-base": 300_000}


def paper_hours(samples_per_second: float) -> float:
    """Returns the hours of the paper's run at this speed per GPU."""
    return PAPER_STEPS * PAPER_BATCH / (PAPER_GPUS * samples_per_second) / 3600


def goals(card: str, measured: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yields a line for each goal and each expected figure.

    card: torch's name of the GPU; measured: numbers of section speed, of which each model's best
    count.
    """
    ordered = sorted(measured, key=lambda numbers: numbers.get("samples_per_second", 0.0))
    best = {numbers["model"]: numbers for numbers in ordered if numbers.get("model")}
    for model, goal in HOPPER_GOALS.items():
        if model in best:
            found = best[model]["positions_per_second"]
            word = _word(found >= goal, "H100" in card or "H200" in card)
            yield f"{model}: {found:,.0f} tokens/s; goal on an H100 or H200: {goal:,} ({word})"
    for model, numbers in best.items():
        if expected := numbers["expected"]:
            found = numbers["samples_per_second"]
            yield f"{model}: {found:,.0f} samples/s, {found / expected:.0%} of the expected"
    if PAPER_MODEL in best:
        hours = paper_hours(best[PAPER_MODEL]["samples_per_second"])
        yield (
            f"the paper's run on {PAPER_GPUS} of this card: {hours:.1f} h; goal on RTX 3090: "
            f"{GOAL_HOURS:.0f} h ({_word(hours <= GOAL_HOURS, '3090' in card)}), its authors: "
            f"{PAPER_HOURS:.0f} h"
        )


def _word(is_reached: bool, is_this_card: bool) -> str:
    if not is_this_card:
        return "not this card's goal"
    return "reached" if is_reached else "missed"
