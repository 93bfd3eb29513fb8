"""Objects with tokens and tags, and with texts and spans, in JSON lines and Parquet."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.tagging.char_spans import spans_of_words, words_of
from finetune.tagging.tag_schemes import in_scheme, spans_of
from finetune.tagging.tagged_files import iter_sentences, read_tagged, write_predictions
from pipeline.errors import StageError

TEXT = st.text(
    st.sampled_from("ab1 .\u0928\u093f\u0301\u2028\u00a0\U0001f469\u200d中ไ\n"), max_size=40
)
TOKENS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
    max_size=5,
) | st.just(["a\u0301"] * 300)


def write(folder, ending: str, rows: list[dict]):
    path = folder / f"in.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def content(path) -> list[dict]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("objects")


def tags_for(number: int, draw) -> list[str]:
    tags = draw(st.lists(st.sampled_from(["O", "B-A", "I-A", "B-x-y"]), min_size=8, max_size=8))
    return in_scheme((tags * (number // 8 + 1))[:number], "IOB2")


@settings(deadline=None, max_examples=12)
@given(st.data(), st.lists(TOKENS, min_size=1, max_size=4), st.sampled_from(["jsonl", "parquet"]))
def test_predicted_tags_are_read_back(folder, data, sentences, ending):
    rows = [{"id": i, "tokens": tokens, "more": None} for i, tokens in enumerate(sentences)]
    rows[0]["tokens"] = rows[0]["tokens"] or ["x"]  # for the type of the column
    tags = [tags_for(len(row["tokens"]), data.draw) for row in rows]
    source, target = write(folder, ending, rows), folder / f"out.{ending}"
    write_predictions(source, target, filter(None, tags))
    assert content(target) == [row | {"tags": tag} for row, tag in zip(rows, tags, strict=True)]
    full = [(tuple(row["tokens"]), tuple(tag)) for row, tag in zip(rows, tags, strict=True) if tag]
    assert [(one.tokens, one.tags) for one in iter_sentences(target)] == full
    assert [(one.tokens, one.tags) for one in read_tagged(target).sentences] == full
    write_predictions(target, target, filter(None, tags), "BILOU")  # in the place of the others
    assert [row["tags"] for row in content(target)] == [in_scheme(tag, "BILOU") for tag in tags]


@settings(deadline=None, max_examples=15)
@given(st.data(), st.lists(TEXT, min_size=1, max_size=4), st.sampled_from(["jsonl", "parquet"]))
def test_predicted_spans_are_read_back(folder, data, texts, ending):
    rows = [{"text": text, "id": i} for i, text in enumerate(texts)]
    source, target = write(folder, ending, rows), folder / f"out.{ending}"
    found = list(iter_sentences(source))
    tags = [tags_for(len(one.tokens), data.draw) for one in found]
    write_predictions(source, target, tags)
    again = list(iter_sentences(target))
    assert [(one.tokens, one.tags) for one in again] == [
        (one.tokens, tuple(tag)) for one, tag in zip(found, tags, strict=True)
    ]
    assert not any(one.num_widened for one in again)
    assert [one.document for one in again] == list(range(len(again)))
    for row in content(target):
        assert all(row["text"][one["start"] : one["end"]].strip() for one in row["spans"])


@settings(deadline=None, max_examples=100)
@given(TEXT)
def test_words_hold_all_characters_but_blanks(text):
    offsets = words_of(text)
    assert [stop for _, stop in offsets[:-1]] <= [start for start, _ in offsets[1:]]
    covered = {place for start, stop in offsets for place in range(start, stop)}
    assert covered == {place for place, char in enumerate(text) if not char.isspace()}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Dr. O'Neil's 5-HT2A", "Dr . O ' Neil ' s 5 - HT2A"),
        ("x\u00a0y\u2028z_1", "x y z _ 1"),
        ("cafe\u0301 हिन्दी", "cafe\u0301 हिन्दी"),
        ("在Tokyo東京タワー", "在 Tokyo 東 京 タ ワ ー"),
        ("서울에서", "서울에서"),
        ("ไปที่", "ไ ป ที่"),
        ("#a @b 👩🏽", "# a @ b 👩 🏽"),
    ],
)
def test_words_of_texts(text, words):
    assert [text[start:stop] for start, stop in words_of(text)] == words.split(" ")


def test_spans_become_tags_and_spans_again(tmp_path):
    text = "Dr. Ann Lee  saw New-York."
    rows = [
        {"text": text, "spans": [[13, 24, "X"], [17, 25, "LOC"]]},
        {"text": text, "spans": [[3, 12, "PER"], [17, 24, "LOC"]], "id": 7},
        {"text": " \n"},
    ]
    rows[0]["spans"] = [[17, 25, "LOC"], [4, 11, "PER"]]
    path = write(tmp_path, "jsonl", rows[:2])
    found = read_tagged(path)
    tags = ("O", "O", "B-PER", "I-PER", "O", "B-LOC", "I-LOC", "I-LOC", "O")
    assert [one.tags for one in found.sentences] == [tags, tags]
    assert [one.num_widened for one in found.sentences] == [0, 1]  # 3 is blank, 24 within York
    assert (found.num_widened, found.first_widened) == (1, f"{path}:2")
    write_predictions(path, tmp_path / "out.jsonl", [tags, ["O"] * 9])
    assert [row["spans"] for row in content(tmp_path / "out.jsonl")] == [
        [[4, 11, "PER"], [17, 25, "LOC"]],
        [],
    ]
    path = write(tmp_path, "jsonl", [*rows[2:], {"text": text, "spans": []}])
    assert [(one.tags, one.line) for one in iter_sentences(path)] == [(("O",) * 9, 2)]
    write_predictions(path, tmp_path / "out.jsonl", [tags])
    assert [row["spans"] for row in content(tmp_path / "out.jsonl")] == [
        [],
        [{"start": 4, "end": 11, "label": "PER"}, {"start": 17, "end": 25, "label": "LOC"}],
    ]
    assert spans_of_words(tags, words_of(text)) == [(4, 11, "PER"), (17, 25, "LOC")]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"tokens": ["a"], "tags": []}, "1 tokens and 0 tags"),
        ({"tokens": ["a"], "tags": "O"}, 'tags are "O", expected a list'),
        ({"tokens": ["a"], "tags": [3]}, "tag 3, expected a text like B-PER"),
        ({"tokens": ["a"], "tags": [""]}, 'tag "", expected'),
        ({"tokens": ["a"]}, "no tags"),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, "an empty token"),
        ({"tokens": "a", "tags": ["O"]}, "tokens are no list"),
        ({"text": "ab"}, "no tags"),
        ({"words": ["ab"]}, "no `tokens` and no `text`"),
        ({"text": "ab c", "spans": {}}, "spans are no list"),
        (
            {"text": "ab c", "spans": [[0, 5, "X"]]},
            "span 0 to 5 of X, expected .* <= 4, the length",
        ),
        ({"text": "ab c", "spans": [[2, 2, "X"]]}, "span 2 to 2"),
        ({"text": "ab c", "spans": [[-1, 2, "X"]]}, "span -1 to 2"),
        ({"text": "ab c", "spans": [[2, 3, "X"]]}, "span 2 to 3 of X is blank"),
        ({"text": "ab c", "spans": [[0, 2, ""]]}, "span .*, expected"),
        ({"text": "ab c", "spans": [[0, 2.0, "X"]]}, "span .*, expected"),
        ({"text": "ab c", "spans": [{"start": 0, "end": 2}]}, "span .*, expected"),
        (
            {"text": "ab c", "spans": [[0, 4, "X"], [3, 4, "Y"]]},
            r"spans overlap: 0 to 4 \(ab c\) and 3 to",
        ),
        (
            {"text": "ab c", "spans": [[0, 1, "X"], [1, 4, "Y"]]},
            r"spans 0 to 1 \(a\) and 1 to 4 \(b c\) share the word ab",
        ),
        (
            {"text": "😀 ab", "spans": [{"start": 3, "end": 4, "label": "X", "text": "ab"}]},
            "span 3 to 4 of X is 'b', not 'ab'",
        ),
    ],
)
def test_malformed_objects_are_named(tmp_path, row, problem):
    path = write(tmp_path, "jsonl", [{"tokens": ["a"], "tags": ["O"]}, row])
    with pytest.raises(StageError, match=rf"in\.jsonl:2: {problem}"):
        read_tagged(path)


def test_lines_that_are_no_objects(tmp_path):
    path = tmp_path / "a.jsonl"
    for line, problem in (
        (b"[1]", "not a JSON object"),
        (b"", "not JSON"),
        (b'"\xff"', "not UTF-8"),
    ):
        path.write_bytes(
            b"\xef\xbb\xbf" + b'{"tokens": ["a"], "tags": ["O"]}\r\n' + line + b"\r\n{}"
        )
        with pytest.raises(StageError, match=rf"a\.jsonl:2: {problem}"):
            read_tagged(path)


# --- Parquet of the Hub -----------------------------------------------------------------------

NAMES = ["O", "B-PER", "I-PER"]


def hub_file(path, rows, feature):
    schema = pa.schema({"tokens": pa.list_(pa.string()), "ner_tags": pa.list_(pa.int64())})
    if feature:
        features = {
            "tokens": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "Sequence"}
        }
        record = {"info": {"features": features | {"ner_tags": feature}}}
        schema = schema.with_metadata({"huggingface": json.dumps(record)})
    pq.write_table(pa.Table.from_pylist(rows, schema), path)
    return path


@pytest.mark.parametrize(
    "feature",
    [
        {"feature": {"names": NAMES, "_type": "ClassLabel"}, "_type": "Sequence", "length": -1},
        {"feature": {"names": NAMES, "_type": "ClassLabel"}, "_type": "List"},
        [{"names": NAMES, "_type": "ClassLabel"}],
    ],
)
def test_numbers_of_tags_get_their_names(tmp_path, feature):
    rows = [{"tokens": ["a", "b"], "ner_tags": [1, 2]}, {"tokens": ["c"], "ner_tags": [-1]}]
    path = hub_file(tmp_path / "a.parquet", rows, feature)
    assert [one.tags for one in iter_sentences(path)] == [("B-PER", "I-PER"), None]
    with pytest.raises(StageError, match=r"a\.parquet, row 2: no tags"):
        read_tagged(path)


@pytest.mark.parametrize(
    ("tags", "feature", "problem"),
    [
        ([0, 3], [{"names": NAMES}], "ner_tags has 3, expected 0 to 2"),
        ([0, -1], [{"names": NAMES}], "ner_tags has -1"),
        ([0, 1], [{"dtype": "int64"}], "ner_tags are numbers, and the metadata"),
        ([0, 1], None, "ner_tags are numbers, and the metadata"),
    ],
)
def test_numbers_without_names(tmp_path, tags, feature, problem):
    rows = [{"tokens": ["a", "b"], "ner_tags": tags}]
    path = hub_file(tmp_path / "a.parquet", rows, feature)
    with pytest.raises(StageError, match=rf"a\.parquet, row 1: {problem}"):
        read_tagged(path)


def test_damaged_files_and_other_columns(tmp_path):
    path = write(tmp_path, "parquet", [{"sentence": "a"}])
    with pytest.raises(StageError, match="has the columns sentence, expected `tokens`"):
        read_tagged(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StageError, match=r"in\.parquet: damaged"):
        read_tagged(path)


@pytest.mark.slow
def test_files_of_datasets_are_read_and_stay_readable(tmp_path):
    import datasets

    label = datasets.ClassLabel(names=NAMES)
    features = datasets.Features(
        {"tokens": datasets.List(datasets.Value("string")), "ner_tags": datasets.List(label)}
    )
    rows = {"tokens": [["Ann", "Lee", "."]], "ner_tags": [[1, 2, 0]]}
    path = tmp_path / "a.parquet"
    datasets.Dataset.from_dict(rows, features).to_parquet(path)
    [sentence] = read_tagged(path).sentences
    assert sentence.tags == ("B-PER", "I-PER", "O") and len(spans_of(sentence.tags)) == 1
    write_predictions(path, tmp_path / "b.parquet", [["O", "B-PER", "O"]])
    again = datasets.Dataset.from_parquet(str(tmp_path / "b.parquet"), cache_dir=tmp_path / "c")
    assert again.features["ner_tags"].feature.names == NAMES
    assert again[0] == {
        "tokens": ["Ann", "Lee", "."],
        "ner_tags": [1, 2, 0],
        "tags": ["O", "B-PER", "O"],
    }
    features = datasets.Features({"text": datasets.Value("string")})
    datasets.Dataset.from_dict({"text": ["Ann."]}, features).to_parquet(path)
    write_predictions(path, tmp_path / "d.parquet", [["B-PER", "O"]])
    again = datasets.Dataset.from_parquet(str(tmp_path / "d.parquet"), cache_dir=tmp_path / "c")
    assert again[0]["spans"] == [{"start": 0, "end": 3, "label": "PER"}]
