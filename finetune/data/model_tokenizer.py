"""Compares a checkpoint's tokenizer.json with transformers' tokenizer on a task's texts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dataset.tokenizers.agreement import find_difference
from pipeline.errors import StageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

MAX_TEXTS, MAX_CHARACTERS = 256, 2048  # compared texts, and characters of each


def check_agreement(
    model: str, tokenizer: "PreTrainedTokenizerBase", texts: Sequence[tuple[str, ...]]
) -> None:
    """Raises StageError, with a text and both results, if they differ.

    Tokenizer classes named after models rebuild the tokenizer from its vocabulary, and may silently
    miss words of the pretraining.
    """
    file = _read_as_it_is(model)
    if file is None:
        return

    def ours(some: Sequence[str]) -> list[list[int]]:
        encoded = file.encode_batch(list(some), add_special_tokens=False)
        return [encoding.ids for encoding in encoded]

    def theirs(some: Sequence[str]) -> list[list[int]]:
        return tokenizer(list(some), add_special_tokens=False)["input_ids"] if some else []

    step = -(-len(texts) // MAX_TEXTS) or 1
    sample = [text[:MAX_CHARACTERS] for row in texts[::step] for text in row]
    name = type(tokenizer).__name__
    if found := find_difference(("tokenizer.json", ours), (name, theirs), sample, file.id_to_token):
        raise StageError(
            f"{model}: {found}, which transformers makes of it; if the model was trained with "
            'tokenizer.json, set "tokenizer_class": "PreTrainedTokenizerFast" in '
            "tokenizer_config.json, else take tokenizer.json away"
        )


def _read_as_it_is(model: str) -> "Tokenizer | None":
    """Loads a checkpoint's tokenizer.json unchanged; returns None if it has none."""
    from tokenizers import Tokenizer
    from transformers.utils import cached_file

    path = cached_file(
        model,
        "tokenizer.json",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if path is None:
        return None
    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
