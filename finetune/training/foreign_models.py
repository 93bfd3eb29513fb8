"""Checks checkpoints from elsewhere."""

from typing import TYPE_CHECKING, cast

from pipeline.errors import StageError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def check_vocabulary(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raises StageError if the tokenizer has more entries than the model has embeddings."""
    embeddings = cast("nn.Embedding", model.get_input_embeddings()).weight.shape[0]
    if len(tokenizer) > embeddings:
        raise StageError(
            f"{model.name_or_path}: the tokenizer has {len(tokenizer):,} entries, the model "
            f"embeddings for {embeddings:,} (vocab_size of its config.json), expected the "
            "tokenizer that the model was trained with"
        )
