"""Writes docs/PIPELINE_CONFIG.md from the rows and comments of configs/defaults.py.

python3 -m configs.manual
"""

import ast
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from pipeline.environment import enter_environment

    enter_environment()

from configs.defaults import SECTIONS
from configs.rows import NamedEntries

DEFAULTS = Path(__file__).with_name("defaults.py")
MANUAL = Path(__file__).resolve().parent.parent / "docs" / "PIPELINE_CONFIG.md"

INTRODUCTION = """# Every key of the config

Generated from `configs/defaults.py` by `python3 -m configs.manual`; change it there.

A YAML file says only what differs from these defaults. It may build on another file with
`_BASE_: other.yaml`, and any key may be given on the command line:
`python3 main.py --config x.yaml PRETRAIN.NUM_STEPS 1000 FINETUNE.GRID.RTE.EPOCHS "[3, 5]"`.
"""


def comments() -> dict[str, str]:
    """Returns `{full key: comment}` from the lines above each row in defaults.py."""
    source = DEFAULTS.read_text(encoding="utf-8")
    lines = source.splitlines()
    found = {}
    for statement in ast.parse(source).body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else None
        if not isinstance(target, ast.Attribute):
            continue
        above = end = statement.lineno - 1
        while lines[above - 1].startswith("#"):
            above -= 1
        found[ast.unparse(target)] = " ".join(line.lstrip("# ") for line in lines[above:end])
    return found


def render() -> str:
    """Returns the manual as Markdown."""
    parts = [INTRODUCTION]
    explained = comments()
    for section, rows in SECTIONS.items():
        parts.append(f"\n## {section}\n")
        for name, row in rows.items():
            key = f"{section}.{name}"
            if isinstance(row, NamedEntries):
                parts.append(f"- **`{key}`**: {explained[key]}")
                parts += [
                    f"  - `{key}.{entry}.{name}` ({_shown(value)})"
                    for entry, values in row.present.items()
                    for name, value in values.items()
                ]
            else:
                parts.append(f"- **`{key}`** ({_shown(row.default)}): {explained[key]}")
    return "\n".join(parts) + "\n"


def _shown(value: Any) -> str:
    return f"`{value}`" if value not in ("", []) else "not set"


if __name__ == "__main__":
    MANUAL.parent.mkdir(exist_ok=True)
    MANUAL.write_text(render(), encoding="utf-8")
