"""Copies our code into the folder of a model, for architectures unknown to transformers."""

import re
from pathlib import Path

# modeling_extremebert.py and all its imports from this project.
FILES = (
    "model/modeling_extremebert.py",
    "model/configuration_extremebert.py",
    "model/encoder.py",
    "kernels/attention.py",
    "kernels/dropout.py",
    "kernels/bf16_attention.py",
    "kernels/linear.py",
)
ABSOLUTE_IMPORT = re.compile(r"^from pretrain\.(?:model|kernels)\.", re.MULTILINE)


def write_code(folder: Path) -> None:
    """Copies the files into the folder, with relative imports of each other."""
    for name in FILES:
        source = Path(__file__).parents[1] / name
        code = ABSOLUTE_IMPORT.sub("from .", source.read_text(encoding="utf-8"))
        (folder / source.name).write_text(code, encoding="utf-8")
