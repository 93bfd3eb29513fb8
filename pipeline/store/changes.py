"""Differences between the inputs of two results, in words."""

import json
from collections.abc import Mapping
from typing import Any

MAX_CHANGES_SHOWN = 5


def describe_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Returns a line like `MODEL.NUM_HIDDEN_LAYERS 24 -> 12, dataset changed`.

    Shows no digests, and of many changes the first few, beginning with keys that both have.
    """
    changes = []
    for key in sorted(old.keys() | new.keys(), key=lambda key: (key not in old.keys() & new, key)):
        before, after = old.get(key, "unset"), new.get(key, "unset")
        if before == after:
            continue
        if key.isupper() or "." in key:
            changes.append(f"{key} {_brief(before)} -> {_brief(after)}")
        else:
            changes.append(f"{key.replace('_', ' ')} changed")
    if len(changes) > MAX_CHANGES_SHOWN:
        hidden = len(changes) - MAX_CHANGES_SHOWN
        changes = [*changes[:MAX_CHANGES_SHOWN], f"and {hidden} more changes"]
    return ", ".join(changes)


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
