"""Text shards: every article once, the same bytes however they are made."""

import json
import random
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.card import held_out_warnings, text_lines
from dataset.shards import split_plan as layouts
from dataset.shards.sentences import load_segmenter
from dataset.shards.split_plan import (
    Census,
    Layout,
    ShardSettings,
    num_shards,
    plan_layout,
    with_both_splits,
)
from dataset.sources.registry import customized_source
from dataset.workers import one_thread_each
from pipeline.errors import StageError
from pipeline.runtime.executor import local_pool
from tests.dataset.dataset_helpers import Here, articles_of, files_of, shard

PART_BYTES = "dataset.sources.registry.MIN_PART_BYTES"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(PART_BYTES, 3000)


def source_of(folder):
    return customized_source(str(folder), "key")


def words(texts):
    return " ".join(texts).split()


def test_every_article_lands_exactly_once(corpus, articles, tmp_path):
    summary = shard(source_of(corpus), tmp_path)
    assert articles_of(tmp_path) == sorted(" ".join(article.split()) for article in articles)
    assert 15 <= len(articles_of(tmp_path, "test")) <= 45
    for name, counts in summary["shards"].items():
        text = (tmp_path / name).read_text()
        assert counts == {
            "bytes": (tmp_path / name).stat().st_size,
            "articles": text.count("\n\n"),
            "sentences": text.count("\n") - text.count("\n\n"),
        }
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_bytes_depend_on_nothing_but_the_text(corpus, tmp_path, monkeypatch):
    shard(source_of(corpus), tmp_path / "here")
    expected = files_of(tmp_path / "here", "*_*.txt")
    assert len(expected) == 5
    for buffer_bytes in (1, 700, 5000):
        shard(source_of(corpus), tmp_path / str(buffer_bytes), buffer_bytes=buffer_bytes)
        assert files_of(tmp_path / str(buffer_bytes), "*_*.txt") == expected
    with local_pool(2, one_thread_each) as executor:
        shard(source_of(corpus), tmp_path / "two", executor)
    assert files_of(tmp_path / "two", "*_*.txt") == expected
    monkeypatch.setattr(PART_BYTES, 1 << 20)
    shard(source_of(corpus), tmp_path / "one part", buffer_bytes=999)
    assert files_of(tmp_path / "one part", "*_*.txt") == expected


@pytest.mark.parametrize("dies_after", [0, 5, 15, 16, 18])
def test_interrupted_and_resumed(corpus, tmp_path, dies_after):
    shard(source_of(corpus), tmp_path / "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        shard(source_of(corpus), tmp_path / "killed", Here(dies_after))
    shard(source_of(corpus), tmp_path / "killed", buffer_bytes=500)
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "undisturbed")


def test_finished_runs_are_kept(corpus, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        shard(source_of(corpus), tmp_path, Here(dies_after=4))
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*.run")}
    with pytest.raises(KeyboardInterrupt):
        shard(source_of(corpus), tmp_path, Here(dies_after=8))
    assert len(times) == 4
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())


@pytest.mark.parametrize(("frac_test", "held_out"), [(1e-9, 1), (1 - 1e-9, 299)])
def test_no_split_is_empty(corpus, tmp_path, frac_test, held_out):
    shard(source_of(corpus), tmp_path, frac_test=frac_test, num=(1, 1))
    assert len(articles_of(tmp_path, "test")) == held_out
    assert len(articles_of(tmp_path, "train")) == 300 - held_out


def test_an_adjusted_layout_is_found_once(corpus, tmp_path):
    with pytest.raises(KeyboardInterrupt):  # with all runs written twice, and one shard
        shard(source_of(corpus), tmp_path, Here(dies_after=29), frac_test=1e-9, num=(1, 1))
    run = tmp_path / "runs/000000.run"
    written = run.stat().st_mtime_ns
    with pytest.raises(KeyboardInterrupt):
        shard(source_of(corpus), tmp_path, Here(dies_after=15), frac_test=1e-9, num=(1, 1))
    assert run.stat().st_mtime_ns == written
    shard(source_of(corpus), tmp_path, frac_test=1e-9, num=(1, 1))
    assert len(articles_of(tmp_path, "test")) == 1


# --- long articles ---------------------------------------------------------------------------


def long_article(name: str, num_bytes: int) -> str:
    paragraphs, size = [], 0
    while size < num_bytes:
        paragraphs.append(f"{name} paragraph {len(paragraphs)} begins. " + "It goes on. " * 12)
        size += len(paragraphs[-1])
    return "\n".join(paragraphs)


@pytest.mark.slow
def test_a_giant_article_is_spread_over_shards_of_one_split(tmp_path):
    (tmp_path / "in").mkdir()
    giant = long_article("Giant", 3_000_000)
    small = [f"Small {i}. It is short." for i in range(100)]
    (tmp_path / "in/a.txt").write_text("\n\n".join([*small[:50], giant, *small[50:]]))
    for buffer_bytes in (1000, 1 << 20):
        summary = shard(
            source_of(tmp_path / "in"), tmp_path / "out", num=(9, 2), buffer_bytes=buffer_bytes
        )
        assert summary["counts"] == {"articles_over_several_shards": 1}
    holding = [
        path for path in sorted((tmp_path / "out").glob("*_*.txt")) if "Giant" in path.read_text()
    ]
    assert len({path.name.split("_")[0] for path in holding}) == 1
    assert len(holding) == 9
    sizes = [path.stat().st_size for path in holding]
    assert max(sizes) < 2.5 * min(sizes)
    sections = [text for text in articles_of(tmp_path / "out") if "Giant" in text]
    assert 9 <= len(sections) <= 11
    assert all(text.startswith("Giant paragraph") for text in sections)  # cut at paragraph ends
    assert sorted(words(articles_of(tmp_path / "out"))) == sorted(words([giant, *small]))


def test_sections_are_whole_and_in_order(tmp_path):
    (tmp_path / "in").mkdir()
    numbers = [f"Number {i} is here." for i in range(20_000)]
    (tmp_path / "in/a.txt").write_text(" ".join(numbers) + "\n\nAnother. Article.")
    shard(source_of(tmp_path / "in"), tmp_path / "out", num=(4, 1), buffer_bytes=1000)
    sections = [text for text in articles_of(tmp_path / "out") if "Number" in text]
    found = [[int(word) for word in text.split() if word.isdigit()] for text in sections]
    assert all(section == list(range(section[0], section[-1] + 1)) for section in found)
    assert sorted(number for section in found for number in section) == list(range(20_000))


# --- small corpora ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [60, 3000, 400_000])
def test_a_single_article_has_its_end_held_out(tmp_path, size):
    (tmp_path / "in").mkdir()
    text = long_article("The", size)
    (tmp_path / "in/a.txt").write_text(text)
    shard(source_of(tmp_path / "in"), tmp_path / "out", frac_test=0.2, num=(3, 1))
    train, test = (words(articles_of(tmp_path / "out", split)) for split in ("train", "test"))
    assert sorted(train + test) == sorted(text.split())
    assert test == text.split()[-len(test) :]
    assert 0.1 < len(test) / len(text.split()) < 0.3
    again = shard(source_of(tmp_path / "in"), tmp_path / "one", frac_test=1e-9, num=(1, 1))
    sentences = sum(shard["sentences"] for shard in again["shards"].values())
    assert text_lines(again)[0] == (
        f"text: {len(text) / 1e6:,.1f} MB, 1 article (its end held out), "
        f"{sentences:,} sentences, 2 shards"
    )
    assert held_out_warnings(again)[0].startswith("only the end of one article, 0.")
    assert again["shards"]["test_00000.txt"]["sentences"] == 1


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Just one.", "one article of one sentence"),
        ("Just one.\n\n\0\n\n\xa0\n", "one article of one sentence"),
        ("\xa0", "no article"),
    ],
)
def test_a_single_sentence_is_too_little(tmp_path, text, found):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(StageError, match=f"hold {found}.*expected at least two sentences"):
        shard(source_of(tmp_path), tmp_path / "out")


def test_empty_articles_are_counted(tmp_path):
    texts = ["One.", "", " ", "\xa0", "\u200b", "\u3000\u200d", "Two.", None, "\ufeff"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    found = shard(source_of(tmp_path), tmp_path / "out")
    assert found["counts"] == {"empty_articles": 7, "byte_order_marks": 1, "null_rows": 1}
    assert articles_of(tmp_path / "out") == ["One.", "Two."]


def test_blank_lines_of_any_kind_hold_no_article(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeff\nOne.\n\xa0\nTwo.\n\n\u200b\n\n\u3000\n")
    found = shard(source_of(tmp_path), tmp_path / "out")
    assert found["counts"] == {"byte_order_marks": 1}
    assert articles_of(tmp_path / "out") == ["One.", "Two."]


def test_what_was_dropped_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "One."}\nbroken\n{"text": "Two."}\n')
    summary = shard(source_of(tmp_path), tmp_path / "out")
    assert summary["counts"] == {"malformed_rows": 1}
    assert summary["notes"][0].endswith(
        "a.jsonl: row at byte 17: not JSON, Expecting value in column 1"
    )


def shard_rows(folder, texts):
    """A row's number decides where it goes, whatever its size is."""
    folder.mkdir()
    (folder / "a.csv").write_text("\n".join(["text", *texts]))
    return shard(source_of(folder / "a.csv"), folder)


def test_a_few_long_articles_that_make_the_held_out_text_are_told(tmp_path):
    even = [f"Article {i}. " + "It goes on and on. " * 30 for i in range(1000)]
    assert held_out_warnings(shard_rows(tmp_path / "even", even)) == []
    held_out = [text.split(".")[0] for text in articles_of(tmp_path / "even", "test")]
    texts = [text * 150 if text.split(".")[0] in held_out[:4] else text for text in even]
    [share, few] = held_out_warnings(shard_rows(tmp_path / "uneven", texts))
    assert re.match(r"4\d\.\d\d% of the text are held out, DATASET.FRAC_TEST is 10\.00%", share)
    assert few.startswith(f"3 of the {len(held_out)} held-out articles make 6")
    assert few.endswith("drawn more evenly")


def test_little_held_out_text_is_told(tmp_path):
    text = shard_rows(tmp_path / "in", [f"Article {i}. It is short." for i in range(100)])
    [little] = held_out_warnings(text)
    assert re.match(r"only \d+ articles of 0\.\d KB in all are held out: ", little)
    assert text_lines(text)[-1] == f"WARNING: {little}"


def test_one_is_told_as_one(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text('id,text\n1,"One.\n2,Two.\n')
    text = shard(source_of(tmp_path / "in"), tmp_path / "out", num=(1, 1))
    lines = text_lines(text)
    assert lines[0] == "text: 0.0 MB, 2 articles (1 held out), 2 sentences, 2 shards"
    assert lines[1] == "dropped, cut or cleaned: 1 unclosed quote"
    assert (
        lines[-1].startswith("WARNING: 50.00%") and " only 1 article of 0.0 KB is held" in lines[3]
    )


def test_no_article_is_told_with_what_was_dropped(tmp_path):
    rows = '{"text": ["a"]}\n' * 3 + '{"body": "a"}\n'
    (tmp_path / "a.jsonl").write_text(rows)
    with pytest.raises(StageError, match="first 4 rows has a list in `text`, expected text"):
        shard(source_of(tmp_path), tmp_path / "out")
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n' + rows)
    with pytest.raises(StageError) as caught:
        shard(source_of(tmp_path), tmp_path / "out")
    assert caught.value.cause == (
        f"the sources hold no article (1 empty article, 4 malformed rows, the first: {tmp_path}/"
        "a.jsonl: row at byte 13: a list in `text`, expected text), expected at least two "
        "sentences: one to train on and one held out"
    )


# --- layout ----------------------------------------------------------------------------------


def test_splits_are_adjusted_as_little_as_possible():
    layout = Layout(seed=0, test_draws=10, num_train_shards=1, num_test_shards=1)
    assert with_both_splits(layout, Census(5, 20, (1, 20), 9)) == layout
    found = Census(11, 20, (7, 20), 4) + Census(12, 90, (3, 12), 5) + Census()
    assert with_both_splits(layout, found).held_out_draw == 12
    assert with_both_splits(layout, Census(1, 7, (0, 1), 9)).test_draws == 7
    assert with_both_splits(layout, Census(7, 7, (0, 7), 9)).first_test_sentence == 8


def test_a_giant_article_is_not_held_out_if_there_is_another(tmp_path):
    (tmp_path / "in").mkdir()
    for seed in range(4):
        (tmp_path / "in/a.txt").write_text(long_article("Giant", 50_000) + "\n\nSmall. One.")
        shard(source_of(tmp_path / "in"), tmp_path / str(seed), frac_test=1e-9, seed=seed)
        assert articles_of(tmp_path / str(seed), "test") == ["Small. One."]


def test_number_of_shards():
    mb = 1 << 20
    sizes = (0, 100_000, mb, 4 * mb, 100 * mb, 512 * mb, 1024 * mb, 16_384 * mb)
    assert [num_shards(size) for size in sizes] == [1, 1, 4, 16, 16, 16, 32, 512]
    layout = plan_layout(1 << 40, ShardSettings(0, 0, 0.005, 1))  # a TB
    assert 4000 < layout.num_train_shards <= 4096
    assert layout.num_test_shards == 20
    assert (
        plan_layout(1000, ShardSettings(500, 1, 0.5, 1)).section_bytes == layouts.MIN_SECTION_BYTES
    )


# --- sentences -------------------------------------------------------------------------------


def test_sentences():
    segment = load_segmenter("en")
    assert segment("Mr. Smith came.\nHe sat\n down.\u2028Then,\xa0nothing. ") == (
        "Mr. Smith came.\nHe sat down.\nThen, nothing."
    )
    assert segment(" \n\t") == ""
    assert load_segmenter("zh")("你好。再见。") == "你好。\n再见。"
    assert load_segmenter("de")("Das ist z. B. gut. Ja.") == "Das ist z. B. gut.\nJa."


@pytest.mark.parametrize("language", ["en", "zh", "hi", "xx"])
def test_no_word_is_lost_between_sentences(language):
    rng = random.Random(language)
    alphabet = [*"abcXYZ,;!?\"'()[]。！？“”「」।؟éא", "\u0300", "\u200b", "\x01", "😀", *" ......"]
    alphabet += [" Mr. ", " e.g. ", " 1. ", "\n", "\xa0", " It is. "] * 3
    segment = load_segmenter(language)
    for length in [10] * 200 + [300] * 50 + [5000] * 4:
        text = "".join(rng.choices(alphabet, k=length))
        lines = segment(text).split("\n")
        assert "".join(words(lines)) == "".join(text.split())
        assert all(line == line.strip() and "  " not in line for line in lines)
        assert all(lines) or not text.split()


def test_long_texts_take_linear_time():
    sentence = "中文很好。"
    assert load_segmenter("zh")(sentence * 60_000).count("\n") == 59_999
    assert load_segmenter("en")("no end " * 100_000).count("\n") == 0


# --- all together ----------------------------------------------------------------------------

PARAGRAPHS = st.lists(
    st.text(st.sampled_from("ab.!? \n\r\té中\0\x1c\x85\u2028"), max_size=60), max_size=30
)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(PARAGRAPHS, st.integers(1, 300), st.integers(1, 200), st.integers(0, 3))
def test_no_text_is_lost(paragraphs, part_bytes, buffer_bytes, seed):
    text = "\n\n".join(["First one.", *paragraphs, "Last one. Really."])
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(PART_BYTES, part_bytes)
        patch.setattr(layouts, "MIN_SECTION_BYTES", 40)
        path = Path(folder) / "a.txt"
        path.write_bytes(text.encode())
        shard(source_of(path), Path(folder), seed=seed, num=(5, 2), buffer_bytes=buffer_bytes)
        found = articles_of(Path(folder))
    expected = text.replace("\0", " ")
    assert sorted("".join(found).replace(" ", "")) == sorted("".join(expected.split()))
    assert found
