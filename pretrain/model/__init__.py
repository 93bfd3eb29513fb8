"""The model, its architectures and its export."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Imports BasePretrainModel, and torch with it, when someone asks for it."""
    if name == "BasePretrainModel":
        from pretrain.model.model import BasePretrainModel

        return BasePretrainModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
