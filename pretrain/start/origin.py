"""Origin of a model that was trained further, for its model card."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.hub.models import hub_name
from pretrain.model.model_card import Origin
from pretrain.start.checkpoint_config import Checkpoint

MOST_READ = 1 << 16  # characters of a README.md
FRONT_MATTER = re.compile(r"---\n(.*?)\n---", re.DOTALL)
PLAIN = re.compile(r"[\w.+/-]{1,96}", re.ASCII)
# Entries of a README.md that also hold for a model made from it.
INHERITED = ("license", "license_name", "base_model")


def _inherited(checkpoint: Checkpoint) -> dict[str, str]:
    """Returns entries for the front matter: the licence of the base and, from the Hub, its name.

    A local folder passes on the entries of its own README.md; its path may be private.
    """
    found = _read_front_matter(checkpoint.folder / "README.md")
    entries = {name: str(found[name]) for name in INHERITED if found.get(name)}
    entries = {name: value for name, value in entries.items() if PLAIN.fullmatch(value)}
    if name := hub_name(checkpoint.folder):
        entries["base_model"] = name
    return entries


def _read_front_matter(path: Path) -> Mapping[str, Any]:
    """Returns the YAML at the start of a README.md; empty if there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            match = FRONT_MATTER.match(file.read(MOST_READ))
        found = yaml.safe_load(match[1]) if match else None
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def origin_of(checkpoint: Checkpoint, counts: str) -> Origin:
    """Returns the origin of a model. counts: of the checkpoint's tensors, in words."""
    entries = _inherited(checkpoint)
    return Origin(entries, _section(checkpoint, entries, counts))


def _section(checkpoint: Checkpoint, entries: Mapping[str, str], counts: str) -> str:
    name = entries.get("base_model")
    base = f"[{name}](https://huggingface.co/{name})" if name else "an existing model"
    of_class = f"`{checkpoint.class_name}`" if PLAIN.fullmatch(checkpoint.class_name) else "model"
    licence = f" (`{entries['license']}`)" if "license" in entries else ""
    length = f", with {checkpoint.num_positions:,} positions" if checkpoint.num_positions else ""
    return (
        f"## Origin\n\nThis model did not begin with random weights, but with those of {base}, a "
        f"{of_class}{length}. It may have the biases of that model, and the licence of that model"
        f"{licence} may hold for it. Tensors: {counts}."
    )
