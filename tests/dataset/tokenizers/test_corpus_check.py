"""What a sample of the text tells of a tokenizer: unknown words and why, letters that are lost."""

import re
import unicodedata

import pytest

from dataset.shards.passages import whole_shard
from dataset.tokenizers.build import build_tokenizer
from dataset.tokenizers.corpus_check import Findings, look_at, sample_articles
from dataset.tokenizers.load import load_tokenizer
from dataset.tokenizers.vocabulary_training import Portion, train_tokenizer
from pipeline.errors import StageError
from tests.dataset.tokenizer_folders import BERT

AMINO_ACIDS = list("ACDEFGHIKLMNPQRSTVWY")


def findings(tmp_path, entries, lines, lower=True, accents="auto"):
    path = tmp_path / "vocab.txt"
    path.write_text("".join(f"{entry}\n" for entry in [*BERT, *entries]), encoding="utf-8")
    build_tokenizer(str(path), lower, tmp_path / "tokenizer", accents)
    return look_at(load_tokenizer(tmp_path / "tokenizer"), lines)


def test_shares_are_of_tokens_and_of_characters(tmp_path):
    found = findings(tmp_path, ["the", "cat", "."], ["the unbelievable cat.", "the cat."])
    assert (found.tokens, found.unknown_tokens) == (7, 1)
    assert (found.characters, found.unknown_characters) == (26, 12)
    assert found.unknown_words == {"unbelievable": 1}
    [line] = found.lines("en")
    assert line.startswith(
        "WARNING: 14.3% of the tokens are unknown, which hide 46.2% of the characters (as "
        "unbelievable); likely cause: characters that the vocabulary lacks (U+0062"
    )


def test_what_is_known_needs_no_word(tmp_path):
    assert findings(tmp_path, ["the", "cat", "."], ["the cat."] * 9).lines("en") == []


def test_a_text_that_is_all_unknown_is_an_error(tmp_path):
    """A vocabulary in capitals, and a text that is lower-cased before it is looked up."""
    found = findings(tmp_path, AMINO_ACIDS, ["M K T A Y I A K Q R"] * 50)
    with pytest.raises(StageError, match=r"100\.0% of the tokens are unknown.* cause: casing"):
        found.lines("en")


def test_unknown_tokens_that_stand_for_few_characters_are_an_error_too():
    """As where normalisation has taken most of the characters away."""
    with pytest.raises(StageError, match=r"95\.0% of the tokens are unknown"):
        Findings(1000, 100, 20, 95, {"x": 95}, "something").lines("en")


@pytest.mark.parametrize(
    ("entries", "text", "lower", "accents", "cause"),
    [
        (["Paris", "Rome", "a"], "Paris Rome a", True, "auto", "DO_LOWER_CASE False"),
        (["paris", "rome", "a"], "Paris Rome a", False, "auto", r"DO_LOWER_CASE True\)"),
        (["PARIS", "ROME", "a"], "Paris Rome a", False, "auto", "these words in capitals"),
        (["cafe", "naive", "a"], "café naïve a", False, "auto", "TOKENIZER.ACCENTS strip"),
        (["café", "a"], unicodedata.normalize("NFD", "café") + " a", False, "keep", "NFC"),
        ([unicodedata.normalize("NFD", "cäfé"), "a"], "cäfé a", False, "keep", "NFD"),
        (["東", "京", "a"], "東京 a", False, "auto", "a vocabulary|Chinese"),
        (["the", "a"], "Δοκιμή a", False, "auto", r"U\+0394 GREEK CAPITAL LETTER DELTA"),
    ],
)
def test_the_likely_cause_is_named(tmp_path, entries, text, lower, accents, cause):
    found = findings(tmp_path, entries, [text] * 20, lower, accents)
    if not found.unknown_tokens:  # Chinese characters stand alone to a vocab.txt
        assert text.startswith("東")
        return
    [line] = found.lines("en")
    assert re.search(f"likely cause: .*({cause})", line), line


def test_long_words_are_the_cause_for_a_tokenizer_json_that_does_not_cut_them(tmp_path):
    from tests.dataset.tokenizer_folders import saved, wordpiece, write

    write(tmp_path / "source", tokenizer__json=saved(wordpiece()))
    build_tokenizer(str(tmp_path / "source"), True, tmp_path / "tokenizer")
    found = look_at(load_tokenizer(tmp_path / "tokenizer"), ["a" * 700 + " the"])
    assert found.unknown_share > 0.9 and "words of more than 100 characters" in found.cause


@pytest.mark.parametrize(
    "text",
    [
        "น้ำประเทศแม่น้ำน้ำในภาษาหนังสือเด็ก" * 30,
        "ACGTTGCA" * 400,
        "ひらがなとカタカナ" * 50,
        "မြန်မာဘာသာ" * 60,
        "ភាសាខ្មែរ" * 60,
        "very_long_identifier_" * 60,
    ],
)
def test_long_runs_are_known_to_a_tokenizer_of_ones_own(tmp_path, text):
    """Of scripts without spaces, of DNA and of identifiers."""
    shard = tmp_path / "train_00000.txt"
    shard.write_text(f"{text}\n{text}\n\n", encoding="utf-8")
    train_tokenizer(
        [Portion([whole_shard(shard)], 10**9)],
        tmp_path / "tokenizer",
        model="wordpiece",
        vocab_size=300,
        do_lower_case=False,
        accents="keep",
        special_tokens=[],
    )
    found = look_at(load_tokenizer(tmp_path / "tokenizer"), [text])
    assert found.unknown_tokens == 0


@pytest.mark.parametrize(
    ("text", "lower", "language", "lost"),
    [
        ("ක්\u200dරියාව", False, "si", "U+200D ZERO WIDTH JOINER), which words of"),
        ("हिन्दी में", True, "hi", "DEVANAGARI"),
        ("हिन्दी में", True, "en", "DEVANAGARI"),
        ("가방에 학생", True, "ko", "HANGUL SYLLABLE"),
        ("ひらがな", True, "ja", "U+304C HIRAGANA LETTER GA"),
        ("йод мой", True, "ru", "U+0439 CYRILLIC SMALL LETTER SHORT I"),
        ("tiếng Việt", True, "vi", "LATIN SMALL LETTER E WITH CIRCUMFLEX AND ACUTE"),
        ("tiếng Việt", True, "en", ""),
        ("हिन्दी में", False, "hi", ""),
        ("Grüße, école, ΓΆΛΑ", True, "de", ""),
        ("가방에 학생", False, "ko", ""),
    ],
)
def test_letters_that_normalisation_takes_away_are_said(tmp_path, text, lower, language, lost):
    found = findings(tmp_path, sorted({*text}), [text], lower)
    lines = list(found._altered_lines(language))
    assert len(lines) == bool(lost)
    if lost:
        assert lost in lines[0]
        assert (f"DATASET.LANGUAGE {language} need" in lines[0]) == (language != "en")


def test_the_sample_is_spread_over_all_shards(tmp_path):
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"train_{number:05d}.txt")
        paths[-1].write_text(f"First {number}.\nSecond.\n\nOther {number}.\n\n")
    assert sample_articles(paths)[:2] == ["First 0.\nSecond.", "Other 0."]
    assert len(sample_articles(paths)) == 6
