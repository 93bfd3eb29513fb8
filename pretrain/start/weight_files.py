"""Reads the tensors of a checkpoint's files, one at a time, without running code."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import StageError
from pipeline.hub.models import refusing_code, weight_files
from pipeline.store.record_files import read_json
from pretrain.start.checkpoint_config import START_KEY

BUFFERS = ("position_ids", "token_type_ids")  # of older checkpoints; they hold no weights
MOST_SHOWN = 8  # names in a message


def shown(names: Sequence[str]) -> str:
    """Returns the first names of a list, and the number of the others."""
    more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
    return ", ".join(names[:MOST_SHOWN]) + more


class WeightFiles:
    """The tensors in a folder by name; each is read when asked for. Use it in a `with` block.

    Raises StageError if there are none, or if they cannot be read without running code.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._stack = ExitStack()
        self._places: dict[str, Any] = {}  # name -> its file, open, or the tensors of it

    def __enter__(self) -> "WeightFiles":
        files = weight_files(self.folder)
        if not files:
            raise StageError(
                f"{START_KEY}: no weights in {self.folder}, expected model.safetensors or "
                "pytorch_model.bin"
            )
        try:
            for path in files:
                if path.suffix != ".json":
                    self._open(path)
        except BaseException:
            self._stack.close()
            raise
        listed = (read_json(files[0]) or {}).get("weight_map", {}) if len(files) > 1 else {}
        if missing := sorted(listed.keys() - self._places.keys()):
            raise StageError(f"{START_KEY}: {files[0]} lists {shown(missing)}, not in its files")
        return self

    def _open(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            if path.suffix == ".safetensors":
                held: Any = self._stack.enter_context(safe_open(path, "pt"))
                names = held.keys()
            else:
                held = _unpickled(path)
                names = [name for name, value in held.items() if isinstance(value, Tensor)]
        except (OSError, SafetensorError, RuntimeError, EOFError) as error:
            raise StageError(f"{START_KEY}: {path} cannot be read: {error}") from error
        self._places |= dict.fromkeys(names, held)

    @property
    def names(self) -> list[str]:
        return [name for name in self._places if not name.endswith(BUFFERS)]

    def read(self, name: str) -> Tensor:
        held = self._places[name]
        return held[name] if isinstance(held, dict) else held.get_tensor(name)

    def __exit__(self, *exception) -> None:
        self._places.clear()
        self._stack.close()


def _unpickled(path: Path) -> dict[str, Any]:
    with refusing_code(str(path)):
        try:  # maps the file into memory
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # the format before torch 1.6
            return torch.load(path, map_location="cpu", weights_only=True)
