"""The model, its forms in transformers, and its export."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Imports BasePretrainModel on demand, since it imports torch."""
    if name == "BasePretrainModel":
        from pretrain.model.model import BasePretrainModel

        return BasePretrainModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
