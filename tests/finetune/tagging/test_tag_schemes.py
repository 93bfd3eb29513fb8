"""Tags and entities in five schemes, against seqeval."""

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval import scheme as strict
from seqeval.metrics.sequence_labeling import get_entities

from finetune.tagging.tag_schemes import SchemeCount, Span, in_scheme, spans_of, tags_of
from pipeline.errors import StageError

KINDS = st.sampled_from(["PER", "LOC", "creative-work", "_"])
QUICKLY = settings(deadline=None, max_examples=50)
SCHEMES = ["IOB2", "IOB1", "IOBES", "BILOU"]


@st.composite
def entities(draw, apart: int = 0):
    """(entities, number of tokens); neighbours are at least `apart` tokens apart."""
    spans, place = [], 0
    for kind, gap, length in draw(
        st.lists(st.tuples(KINDS, st.integers(0, 3), st.integers(1, 4)), max_size=8)
    ):
        start = place + max(gap, apart)
        place = start + length
        spans.append(Span(kind, start, place))
    return spans, place + draw(st.integers(0, 3))


def tags_with(prefixes: str):
    tag = st.builds(
        lambda prefix, kind: prefix if kind == "_" else f"{prefix}-{kind}",
        st.sampled_from(prefixes),
        KINDS,
    )
    return st.lists(st.just("O") | tag, max_size=12)


def found_in(*sentences):
    count = SchemeCount()
    for number, tags in enumerate(sentences):
        count.add(tags, lambda token, number=number: f"f:{number}.{token}")
    return count.found()


def of_seqeval(tags):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # for a tag that it does not know
        return [(kind, start, last + 1) for kind, start, last in get_entities(tags)]


@QUICKLY
@given(tags_with("BI") | tags_with("BIES"))
def test_entities_of_any_tags_valid_or_not_are_those_of_seqeval(tags):
    assert spans_of(tags) == of_seqeval(tags)


@QUICKLY
@given(tags_with("BILU"))
def test_bilou_is_read_as_iobes(tags):
    swapped = [{"L": "E", "U": "S"}.get(tag[0], tag[0]) + tag[1:] for tag in tags]
    assert spans_of(tags) == of_seqeval(swapped)


@QUICKLY
@given(entities(), st.sampled_from(SCHEMES))
def test_strict_seqeval_finds_the_same_in_valid_tags(case, scheme):
    spans, length = case
    tags = tags_of(spans, length, scheme)
    found = strict.Tokens(tags, getattr(strict, scheme)).entities
    assert [(one.tag, one.start, one.end) for one in found] == spans
    assert spans_of(tags) == spans


@QUICKLY
@given(entities(), st.sampled_from(SCHEMES), st.sampled_from(SCHEMES))
def test_schemes_convert_into_each_other(case, scheme, other):
    spans, length = case
    tags = tags_of(spans, length, scheme)
    assert in_scheme(in_scheme(tags, other), scheme) == tags
    assert in_scheme(tags, "IOB2") == tags_of(spans, length)


@QUICKLY
@given(entities(apart=1))
def test_without_prefixes_entities_that_are_apart_are_kept(case):
    spans, length = case
    tags = tags_of(spans, length, "IO")
    assert spans_of(tags) == spans and in_scheme(in_scheme(tags, "IOB2"), "IO") == tags


def test_without_prefixes_neighbours_become_one():
    assert in_scheme(["B-PER", "B-PER", "B-LOC"], "IO") == ["PER", "PER", "LOC"]


@QUICKLY
@given(st.lists(entities(), min_size=1, max_size=4), st.sampled_from(SCHEMES))
def test_the_scheme_of_valid_tags_is_found(cases, scheme):
    found = found_in(*(tags_of(spans, length, scheme) for spans, length in cases))
    expected = scheme if any(spans for spans, _ in cases) else "IOB2"
    assert (found.scheme, found.num_invalid, found.first_invalid) == (expected, 0, "")
    assert found.types == tuple(sorted({span.kind for spans, _ in cases for span in spans}))


@pytest.mark.parametrize(
    ("sentences", "scheme", "num_invalid", "first"),
    [
        ([["O", "O"]], "IOB2", 0, ""),
        ([["I-A", "O", "I-A", "I-A"]], "IOB1", 0, ""),
        ([["B-A", "I-A"], ["B-A"], ["O", "I-A"]], "IOB2", 1, "f:2.1"),
        ([["B-A", "I-B", "O", "B-A", "O", "B-A"]], "IOB2", 1, "f:0.1"),
        ([["I-A", "B-A"], ["I-A"], ["B-A"]], "IOB1", 1, "f:2.0"),
        ([["I-A", "O", "B-A"]], "IOB2", 1, "f:0.0"),  # as many against IOB1
        ([["S-A", "B-A", "E-A"], ["O", "E-A"]], "IOBES", 1, "f:1.1"),
        ([["S-A", "B-A", "E-A"], ["B-A", "I-A"]], "IOBES", 1, "f:1.1"),
        ([["U-A", "B-A", "L-A"], ["B-A", "L-B", "O"]], "BILOU", 1, "f:1.1"),
        ([["B", "I", "O", "B"]], "IOB2", 0, ""),
        ([["PER", "O", "art-music"]], "IO", 0, ""),
    ],
)
def test_scheme_and_invalid_tags(sentences, scheme, num_invalid, first):
    found = found_in(*sentences)
    assert (found.scheme, found.num_invalid, found.first_invalid) == (scheme, num_invalid, first)


@pytest.mark.parametrize(
    ("tags", "problem"),
    [
        (["O", "B-PER", "0"], r"f:0\.2: tag '0', expected O or one like B-PER, as in f:0\.1"),
        (["PER", "O", "O", "DNA", "B-cell"], r"f:0\.4: a prefix before 'cell', expected a tag"),
        (["O", "B_PER", "I_PER"], r"f:0\.1: tag 'B_PER', expected one like B-PER"),
        (["O", "PER-B"], r"f:0\.1: tag 'PER-B', expected one like B-PER"),
        (["NN", "VB", "."], r"f:0\.0: tag 'NN', and no tag is O"),
        (["O", ""], r"f:0\.1: an empty tag"),
        (["O", *map(str, range(1001))], r"f:0\.1001: tag '1000' and 1,000 others"),
    ],
)
def test_what_is_no_tag_is_named(tags, problem):
    with pytest.raises(StageError, match=problem):
        found_in(tags)


@pytest.mark.parametrize("spans", [[Span("A", 0, 2), Span("A", 1, 3)], [Span("A", 2, 4)]])
def test_spans_that_overlap_or_exceed_the_sentence(spans):
    with pytest.raises(ValueError, match="in 3 tokens"):
        tags_of(spans, 3)
