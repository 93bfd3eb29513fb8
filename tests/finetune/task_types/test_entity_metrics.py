"""Entities are scored as by seqeval; a baseline looks up those of the training set."""

from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score

from finetune.tagging.tag_schemes import Span, spans_of
from finetune.task_types.entity_metrics import EntityCounts, WordList, count_entities, total

TAGS = st.lists(st.sampled_from(["O", "B-A", "I-A", "B-x-y", "I-x-y", "E-A", "B", "I"]), max_size=9)


@given(st.lists(TAGS.flatmap(lambda tags: st.tuples(st.just(tags), st.permutations(tags)))))
def test_scores_are_those_of_seqeval(pairs):
    true, found = [list(one) for one, _ in pairs], [list(one) for _, one in pairs]
    counts = count_entities(true, found)
    ours = total(counts)
    if not any(map(spans_of, true + found)):
        assert ours == EntityCounts() and ours.f1 == 0
        return
    for function, value in ((f1_score, ours.f1), (precision_score, ours.precision)):
        assert abs(function(true, found, zero_division=0) - value) < 1e-12
    assert abs(recall_score(true, found, zero_division=0) - ours.recall) < 1e-12
    by_type = f1_score(true, found, average=None, zero_division=0)
    assert [round(one.f1, 12) for one in counts.values()] == [round(v, 12) for v in by_type]


def test_entities_are_looked_up_the_longest_first_and_without_doubtful_ones():
    known = WordList(
        [
            (["New", "York", "Times"], ["B-ORG", "I-ORG", "I-ORG"]),
            (["New", "York", "and", "Paris"], ["B-LOC", "I-LOC", "O", "B-LOC"]),
            (["Paris"], ["B-PER"]),
        ]
    )
    words = ["New", "York", "Times", "New", "York", "Paris", "New", "York"]
    assert list(known.spans(words)) == [Span("ORG", 0, 3), Span("LOC", 3, 5), Span("LOC", 6, 8)]
