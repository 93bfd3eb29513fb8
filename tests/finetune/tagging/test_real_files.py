"""Published corpora: counts by a few lines that share no code with the readers."""

import re
from collections import Counter

import pytest
from seqeval.metrics.sequence_labeling import get_entities

from finetune.tagging.tag_schemes import spans_of
from finetune.tagging.tagged_files import iter_sentences, read_tagged, write_predictions

CASES = [
    pytest.param("wnut17/train.conll", 2, marks=pytest.mark.slow),  # blank lines with a TAB
    ("wnut17/dev.conll", 2),
    ("wnut17/test.conll", 2),
    ("ncbi_disease/dev.tsv", 2),
    pytest.param("ncbi_disease/train.tsv", 2, marks=pytest.mark.slow),
    pytest.param("bc5cdr/train.tsv", 2, marks=pytest.mark.slow),
    ("litbank/test", 2),
    *(("litbank/dev", column) for column in (2, 3, 4, 5)),
]


@pytest.fixture(scope="module")
def corpora(shared_data):
    if not (shared_data / "ner").is_dir():
        pytest.skip("the tagged corpora are not here")
    return shared_data / "ner"


def counted(paths, column: int):
    """Returns the numbers of sentences and tokens, and of entities by type."""
    sentences = tokens = 0
    entities: Counter[str] = Counter()
    for path in paths:
        text = path.read_text(encoding="utf-8").replace("\t\n", "\n")
        for block in re.split(r"\n(?:[ \t]*\n)+", text.strip("\n")):
            tags = [line.split("\t")[column - 1] for line in block.split("\n") if line.strip()]
            sentences, tokens = sentences + bool(tags), tokens + len(tags)
            entities.update(kind for kind, _, _ in get_entities(tags))
    return sentences, tokens, entities


@pytest.mark.parametrize(("name", "column"), CASES)
def test_sentences_tokens_and_entities(corpora, name, column):
    path = corpora / name
    found = read_tagged(path, column)
    paths = sorted(path.iterdir()) if path.is_dir() else [path]
    entities = Counter(span.kind for one in found.sentences for span in spans_of(one.tags))
    tokens = sum(len(one.tokens) for one in found.sentences)
    assert (len(found.sentences), tokens, entities) == counted(paths, column)
    assert found.scheme.scheme == "IOB2" and found.scheme.types == tuple(sorted(entities))
    assert max(one.document for one in found.sentences) == len(paths) - 1
    for one in found.sentences[:: max(1, len(found.sentences) // 50)]:
        place = one.path.read_text(encoding="utf-8").split("\n")[one.line - 1]
        assert place.split("\t")[0] == one.tokens[0]


@pytest.mark.parametrize("name", ["wnut17/dev.conll", "ncbi_disease/dev.tsv", "litbank/dev"])
def test_the_own_tags_as_predictions_give_the_same_files(corpora, name, tmp_path):
    source, target = corpora / name, tmp_path / "copy"
    tags = (one.tags for one in iter_sentences(source, 2))
    write_predictions(source, target, tags, tag_column=2)
    for path in sorted(source.iterdir()) if source.is_dir() else [source]:
        copy = target / path.name if source.is_dir() else target
        assert copy.read_bytes() == path.read_bytes()
