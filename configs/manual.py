"""Writes docs/PIPELINE_CONFIG.md out of configs/defaults.py: one source for every key.

python3 -m configs.manual
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from pipeline.environment import enter_environment

    enter_environment()

from configs.defaults import get_default_config
from configs.loading import flatten

DEFAULTS = Path(__file__).with_name("defaults.py")
MANUAL = Path(__file__).resolve().parent.parent / "docs" / "PIPELINE_CONFIG.md"

# Sections of names that the user chooses have no key of their own: the key that each stands above.
SECTION_ABOVE = {
    "FINETUNE.SEARCH": "FINETUNE.CUSTOM_TASKS",
    "FINETUNE.GRID.DEFAULT.EPOCHS": "FINETUNE.GRID",
}

INTRODUCTION = """# Every key of the config

Generated from `configs/defaults.py` by `python3 -m configs.manual`; change it there.

A YAML file says only what differs from these defaults. It may build on another file with
`_BASE_: other.yaml`, and any key may be given on the command line:
`python3 main.py --config x.yaml PRETRAIN.NUM_STEPS 1000 FINETUNE.GRID.RTE.EPOCHS "[3, 5]"`.
"""


def comments() -> dict[str, str]:
    """`{full key: comment}` from the lines above each assignment in defaults.py."""
    source = DEFAULTS.read_text(encoding="utf-8")
    lines = source.splitlines()
    found = {}
    for key, line_number in _assignments(source):
        above = line_number - 1
        while lines[above - 1].lstrip().startswith("#"):
            above -= 1
        found[key] = " ".join(line.lstrip("# ") for line in lines[above : line_number - 1])
    return found


def _assignments(source: str) -> Iterator[tuple[str, int]]:
    """(full key, line number) of `section.KEY = ...` in the functions named `_section`."""
    for function in ast.parse(source).body:
        if not isinstance(function, ast.FunctionDef) or not function.name.startswith("_"):
            continue
        for statement in function.body:
            target = statement.targets[0] if isinstance(statement, ast.Assign) else None
            if isinstance(target, ast.Attribute):
                yield f"{function.name.strip('_').upper()}.{target.attr}", statement.lineno


def render() -> str:
    """The manual as Markdown."""
    parts = [INTRODUCTION]
    explained = comments()
    section = ""
    for key, value in flatten(get_default_config()).items():
        if not key.startswith(f"{section}."):
            section = key.partition(".")[0]
            parts.append(f"## {section}\n")
        if named := SECTION_ABOVE.get(key):
            parts.append(f"- **`{named}`**: {explained[named]}")
        if key in explained:
            parts.append(f"- **`{key}`** ({_shown(value)}): {explained[key]}")
        elif value:  # the grid's lists
            parts.append(f"  - `{key}` ({_shown(value)})")
    return "\n".join(parts).replace("\n##", "\n\n##") + "\n"


def _shown(value: Any) -> str:
    return f"`{value}`" if value not in ("", []) else "not set"


if __name__ == "__main__":
    MANUAL.parent.mkdir(exist_ok=True)
    MANUAL.write_text(render(), encoding="utf-8")
