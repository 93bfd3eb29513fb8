"""Facts on the phases of a run, for its manifest, its model card and the report."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pretrain.plan import PretrainPlan, length_of_run

if TYPE_CHECKING:
    from yacs.config import CfgNode


def phase_facts(
    plan: PretrainPlan, results: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Returns the settings and results of each phase up to a planned one, in order.

    results: of the planned one, if it is finished.
    """
    facts = [_facts(plan, results or {})]
    while plan.previous:
        plan = plan.previous
        facts.insert(0, _facts(plan, (plan.artifact.manifest or {}).get("results", {})))
    return facts


def _facts(plan: PretrainPlan, results: Mapping[str, Any]) -> dict[str, Any]:
    config = plan.config
    assert config is not None
    dataset, pretrain = config.DATASET, config.PRETRAIN
    facts = {
        "phase": plan.phase,
        "length": length_of_run(pretrain),
        "max_seq_length": dataset.MAX_SEQ_LENGTH,
        "predicted": share_in_words(dataset),
        "batch_size": pretrain.BATCH_SIZE,
        "learning_rate": pretrain.LEARNING_RATE,
        "curve": curve_in_words(pretrain),
    }
    found = {"steps": "step", "tokens": "tokens", "validation_loss": "validation_loss"}
    return facts | {name: results[key] for name, key in found.items() if key in results}


def share_in_words(dataset: "CfgNode") -> str:
    """Returns `15 %`, or `30 % to 15 %` for a changing share of masked tokens."""
    ends = (dataset.MASKED_LM_PROB, dataset.MASKED_LM_PROB_END)
    return " to ".join(f"{100 * end:g} %" for end in ends if end)


def curve_in_words(pretrain: "CfgNode") -> str:
    """Returns `linear`, or `linear, 0.9 to 1` for a part of the curve."""
    begin, end = pretrain.LR_CURVE_BEGIN, pretrain.LR_CURVE_END
    part = "" if (begin, end) == (0.0, 1.0) else f", {begin:g} to {end:g}"
    return f"{pretrain.LR_CURVE}{part}"
