"""SentencePiece models, and vocab.json with merges.txt, to tokenizer.json.

transformers knows how each of its classes reads them: which ids come first, which special tokens
are added, how text is normalised. That is taken from there, in a process of its own.
"""

import json
import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dataset.tokenizers.classes import CONVERTED_CLASSES, PLAIN_CLASSES
from dataset.tokenizers.source import TokenizerSource, check_distinct, kind_of, unknown_token
from dataset.tokenizers.tokenizer_files import MERGES, NAME_KEY, SPECIAL_TOKENS
from pipeline.errors import StageError
from pipeline.runtime.executor import local_pool, run_unordered

BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
UNIGRAM = 1  # of sentencepiece's trainer_spec.model_type


def convert(source: TokenizerSource) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the content of a tokenizer.json, and the special tokens by role.

    Raises StageError if transformers cannot read the files.
    """
    with local_pool(1) as pool:
        [(_, result)] = run_unordered(pool, _convert, [source])
    return result


def _convert(source: TokenizerSource) -> tuple[dict[str, Any], dict[str, str]]:
    name = source.class_name
    if name in PLAIN_CLASSES:
        name = CONVERTED_CLASSES.get(source.file.name)
    if not name:
        raise StageError(
            f"{NAME_KEY}: {source.file}: which class reads it is not known, expected one of the "
            f"names {', '.join(CONVERTED_CLASSES)}, or tokenizer_class in tokenizer_config.json"
        )
    tokenizer = _load(source, name)
    roles = {role: getattr(tokenizer, role) for role in SPECIAL_TOKENS}
    lacking = [role for role, token in roles.items() if token is None]
    if lacking:
        raise StageError(
            f"{NAME_KEY}: {source.file}, read as {name}, has no {', '.join(lacking)}, expected one "
            "for each of BERT's roles"
        )
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    if (unknown := unknown_token(content)) is not None:
        roles["unk_token"] = unknown
    return content, check_distinct(roles, source.file)


def _load(source: TokenizerSource, name: str) -> Any:
    """The tokenizer as the class `name` of transformers reads it.

    Loaded from a copy: nothing else in the user's folder may decide how.
    """
    import transformers

    transformers.utils.logging.set_verbosity_error()
    reader = getattr(transformers, name, None)
    if reader is None or not issubclass(reader, transformers.TokenizersBackend):
        raise StageError(
            f"{NAME_KEY}: {source.file.parent} is for {name}, which transformers cannot turn into "
            "a tokenizer.json"
        )
    if kind_of(source.file) == "sentencepiece":
        _check_model(source.file, name)
    expected = reader.vocab_files_names.get("vocab_file") or source.file.name
    with TemporaryDirectory() as folder:
        shutil.copyfile(source.file, Path(folder) / expected)
        for beside in (*(BESIDE if source.is_folder else ()), MERGES):
            if (source.file.parent / beside).is_file():
                text = (source.file.parent / beside).read_text(encoding="utf-8")
                # Of older versions, which the present one warns of.
                text = re.sub(r',?\s*"__type":\s*"AddedToken"', "", text)
                (Path(folder) / beside).write_text(text, encoding="utf-8")
        try:
            return reader.from_pretrained(folder)
        except Exception as error:  # each reader has errors of its own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise StageError(
                f"{NAME_KEY}: {source.file} cannot be read as {name} ({reason}); expected "
                "tokenizer_class in tokenizer_config.json to name the class that it was made for"
            ) from error


def _check_model(file: Path, name: str) -> None:
    """Raises StageError for what is no model, or one of another kind than its class reads."""
    import transformers
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import models

    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(file.read_bytes())
    except Exception as error:  # the library's own, which is not importable by a stable name
        raise StageError(f"{NAME_KEY}: {file}: no SentencePiece model ({error})") from error
    if not proto.pieces:
        raise StageError(f"{NAME_KEY}: {file}: a SentencePiece model without pieces")
    is_unigram = proto.trainer_spec.model_type == UNIGRAM
    if getattr(transformers, name).model is models.Unigram and not is_unigram:
        raise StageError(
            f"{NAME_KEY}: {file} is no unigram model, but {name} reads it as one; expected "
            "tokenizer_class in tokenizer_config.json to name the class that it was made for"
        )
