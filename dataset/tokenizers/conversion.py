"""Converts SentencePiece models, and vocab.json with merges.txt, to tokenizer.json.

The classes of transformers know how to read them: the order of ids, the special tokens, the
normalisation. They run in a subprocess, whose memory is freed afterwards.
"""

import json
import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dataset.tokenizers.source import CONVERTED_CLASSES, PLAIN_CLASSES, TokenizerSource, kind_of
from dataset.tokenizers.special_tokens import check_distinct
from dataset.tokenizers.tokenizer_files import (
    MERGES,
    NAME_KEY,
    SETTINGS_FILES,
    SPECIAL_TOKENS,
    unknown_token,
)
from dataset.workers import in_subprocess
from pipeline.errors import StageError

UNIGRAM = 1  # sentencepiece's trainer_spec.model_type
EXPECTED_CLASS = "expected the class of this model as tokenizer_class in tokenizer_config.json"


def convert(source: TokenizerSource) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the content of a tokenizer.json, and the special tokens by role.

    Raises StageError if transformers cannot read the files.
    """
    return in_subprocess(_convert, source)


def _convert(source: TokenizerSource) -> tuple[dict[str, Any], dict[str, str]]:
    name = source.class_name
    if name in PLAIN_CLASSES:
        name = CONVERTED_CLASSES.get(source.file.name, "")
    if not name:
        raise StageError(
            f"{NAME_KEY}: {source.file}: its tokenizer class is unknown, expected one of the "
            f"names {', '.join(CONVERTED_CLASSES)}, or tokenizer_class in tokenizer_config.json"
        )
    tokenizer = _load(source, name)
    roles = {role: getattr(tokenizer, role) for role in SPECIAL_TOKENS}
    missing = [role for role, token in roles.items() if token is None]
    if missing:
        raise StageError(
            f"{NAME_KEY}: {source.file}, read as {name}, has no {', '.join(missing)}, expected one "
            "for each of BERT's roles"
        )
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    if (unknown := unknown_token(content)) is not None:
        roles["unk_token"] = unknown
    return content, check_distinct(roles, source.file)


def _load(source: TokenizerSource, name: str) -> Any:
    """Loads the tokenizer with the class `name` of transformers.

    It reads a copy, so no other file of the user's folder can change the result.
    """
    import transformers

    transformers.utils.logging.set_verbosity_error()
    reader = getattr(transformers, name, None)
    if reader is None or not issubclass(reader, transformers.TokenizersBackend):
        raise StageError(
            f"{NAME_KEY}: {source.file.parent} is for {name}, which transformers cannot convert to "
            "a tokenizer.json"
        )
    if kind_of(source.file) == "sentencepiece":
        _check_sentencepiece(source.file, name)
    expected = reader.vocab_files_names.get("vocab_file") or source.file.name
    with TemporaryDirectory() as folder:
        shutil.copyfile(source.file, Path(folder) / expected)
        for beside in (*(SETTINGS_FILES if source.is_folder else ()), MERGES):
            if (source.file.parent / beside).is_file():
                text = (source.file.parent / beside).read_text(encoding="utf-8")
                # A mark of older versions, which newer ones warn about.
                text = re.sub(r',?\s*"__type":\s*"AddedToken"', "", text)
                (Path(folder) / beside).write_text(text, encoding="utf-8")
        try:
            return reader.from_pretrained(folder)
        except Exception as error:  # each class raises errors of its own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise StageError(
                f"{NAME_KEY}: {source.file} cannot be read as {name} ({reason}); {EXPECTED_CLASS}"
            ) from error


def _check_sentencepiece(file: Path, name: str) -> None:
    """Raises StageError if the file is no SentencePiece model, or not the kind its class reads."""
    import transformers
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import models

    # protobuf defines its classes at run time.
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    try:
        proto.ParseFromString(file.read_bytes())
    except Exception as error:  # the error class has no stable import path
        raise StageError(f"{NAME_KEY}: {file}: not a SentencePiece model ({error})") from error
    if not proto.pieces:
        raise StageError(f"{NAME_KEY}: {file}: a SentencePiece model without pieces")
    is_unigram = proto.trainer_spec.model_type == UNIGRAM
    if getattr(transformers, name).model is models.Unigram and not is_unigram:
        raise StageError(
            f"{NAME_KEY}: {file} is not a unigram model, but {name} reads it as one; "
            f"{EXPECTED_CLASS}"
        )
