"""What texts lose on their way to the model: cut tokens, unknown characters, and why."""

import pytest

from finetune.data.encoding import encode
from finetune.data.token_counts import COLUMNS, TokenCounts, Tokenization, cause_in_words
from finetune.search.job_folder import ASKED_LENGTH
from pipeline.errors import StageError

WORDS = ("lamp", "boat", "river", "größe", "##s", "l", "##amp")


def word_pieces(folder, words=WORDS, **options):
    from transformers import BertTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    return BertTokenizerFast(vocab=str(folder / "vocab.txt"), strip_accents=False, **options)


@pytest.fixture
def tokenizer(tmp_path):
    return word_pieces(tmp_path / "tokenizer")


def counted(tokenizer, rows, max_length=8) -> list[dict]:
    """The counts of each row, without those that are 0."""
    _, _, counts, _ = encode(tokenizer, rows, max_length, token_types=False)
    return [{name: int(n) for name, n in zip(COLUMNS, row, strict=True) if n} for row in counts]


# --- counting ---------------------------------------------------------------------------------


def test_what_is_cut_of_a_text_is_counted(tokenizer):
    rows = [("lamp " * 6,), ("lamp " * 7,), ("lamp " * 100,), ("",)]
    assert counted(tokenizer, rows) == [
        {"tokens": 6, "characters": 24},  # as long as can be: nothing is cut
        {"tokens": 7, "cut": 1, "characters": 28},
        {"tokens": 100, "cut": 94, "characters": 400},
        {},
    ]
    counts = TokenCounts.of(encode(tokenizer, rows, 8, token_types=False)[2])
    assert (counts.num_samples, counts.num_truncated) == (4, 2)
    assert counts.shares == {
        "truncated_share": 0.5,
        "cut_share": pytest.approx(95 / 113),
        "unknown_share": 0.0,
        "unknown_character_share": 0.0,
    }


def test_what_is_cut_of_a_pair_is_counted(tokenizer):
    rows = [("lamp lamp lamp", "boat boat"), ("lamp " * 10, "boat")]
    assert counted(tokenizer, rows) == [
        {"tokens": 5, "characters": 20},
        {"tokens": 11, "cut": 6, "characters": 44},
    ]


def test_one_unknown_token_can_hide_a_long_word(tokenizer):
    rows = [("a lamp", "x" * 150), ("boats", "Lamp")]
    assert counted(tokenizer, rows) == [
        {"tokens": 3, "unknown": 2, "characters": 155, "unknown_characters": 151},
        {"tokens": 3, "characters": 9},
    ]


def test_unknown_words_behind_the_cut_count_too(tokenizer):
    [found] = counted(tokenizer, [("lamp " * 9 + "wolf",)])
    assert found == {
        **{"tokens": 10, "cut": 4, "unknown": 1, "characters": 40, "unknown_characters": 4}
    }


def test_the_ids_are_those_of_the_tokenizer(tokenizer):
    rows = [("lamp boat " * number, "river wolf") for number in range(9)]
    columns, offsets, _, words = encode(tokenizer, rows, 10, token_types=True)
    expected = tokenizer(*map(list, zip(*rows, strict=True)), truncation=True, max_length=10)
    for i, (ids, types) in enumerate(
        zip(expected["input_ids"], expected["token_type_ids"], strict=True)
    ):
        assert columns["input_ids"][offsets[i] : offsets[i + 1]].tolist() == ids
        assert columns["token_type_ids"][offsets[i] : offsets[i + 1]].tolist() == types
    assert words == ("wolf",)


def test_letters_that_vanish_without_an_unknown_token_count_as_unknown(tmp_path):
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    model = Tokenizer(BPE({"a": 0, "b": 1, "ab": 2, "<pad>": 3}, [("a", "b")]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<pad>")
    assert counted(tokenizer, [("ab",), ("cde",)]) == [
        {"tokens": 1, "characters": 2},
        {"characters": 3, "unknown_characters": 3},
    ]


def test_a_tokenizer_without_offsets_is_counted_by_its_tokens():
    class Batch(dict):
        encodings = None

    class Slow:
        unk_token_id, is_fast = 1, False

        def num_special_tokens_to_add(self, pair):
            return 0

        def __call__(self, texts, **_):
            words = [text.split() for text in texts]
            return Batch(input_ids=[[1 if word == "wolf" else 2 for word in row] for row in words])

    assert counted(Slow(), [("lamp wolf boat wolf",), ("lamp",)]) == [
        {"tokens": 4, "unknown": 2, "characters": 16, "unknown_characters": 8},
        {"tokens": 1, "characters": 4},
    ]


# --- why they are unknown ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, options, text, cause",
    [
        (
            WORDS,
            {"do_lower_case": False},
            "Lamp BOAT River",
            "casing, as the vocabulary has these",
        ),
        (("LAMP", "BOAT"), {}, "LAMP BOAT", "casing, as the vocabulary has these"),
        (
            ("Lamp", "Boat"),
            {},
            "Lamp Boat",
            "casing, as the vocabulary has these",
        ),
        (("resume",), {}, "résumé", "accents, as the vocabulary has these words without"),
        (
            WORDS,
            {},
            "gro\N{COMBINING DIAERESIS}ße",
            "accents, as the vocabulary has these words in composed",
        ),
        (WORDS, {}, "лампа лодка", "characters that the vocabulary lacks (U+0430 CYRILLIC"),
        (WORDS, {}, "lamp" * 30 + " wolf", "words of more than 100 characters"),
        (
            WORDS,
            {},
            "czech \N{LATIN SMALL LETTER THORN}",
            "characters that the vocabulary lacks",
        ),
        (WORDS, {}, "amp bat", "a vocabulary that was made for"),
    ],
)
def test_the_likely_cause(tmp_path, words, options, text, cause):
    tokenizer = word_pieces(tmp_path / "tokenizer", words, **options)
    *_, unknown = encode(tokenizer, [(text,)], 64, token_types=False)
    assert cause_in_words(tokenizer, unknown).startswith(cause)


# --- what is said ------------------------------------------------------------------------------


def tokenization(train=(), dev=(), **rest) -> Tokenization:
    """train and dev: counts that differ from a sample of 100 known words."""
    usual = {
        **{"num_samples": 100, "num_truncated": 0, "num_tokens": 1000, "num_tokens_cut": 0},
        **{"num_unknown_tokens": 0, "num_characters": 5000, "num_unknown_characters": 0},
    }
    splits = {
        name: TokenCounts(**usual | dict(counts))
        for name, counts in (("train", train), ("dev", dev))
    }
    known = {"task": "mine", "max_seq_length": 64, "asked": 64, "positions": 64}
    return Tokenization(**known | rest, splits=splits)


def test_the_line_of_a_task():
    found = tokenization({"num_truncated": 12, "num_tokens_cut": 30}, {"num_unknown_tokens": 200})
    assert str(found) == (
        "mine: at most 64 tokens per sample; truncated: train 12.0 % of samples (3.0 % of tokens); "
        "unknown: 10.0 % of tokens (0.0 % of characters)"
    )
    assert "truncated: none; unknown: 0.0 %" in str(tokenization())


def test_the_length_that_was_used_and_the_asked_one_if_it_is_another():
    found = tokenization().as_json()
    assert found["max_seq_length"] == 64 and ASKED_LENGTH not in found
    assert found["tokenization"]["dev"]["truncated_share"] == 0.0
    assert tokenization(asked=512).as_json()["max_seq_length_asked"] == 512


CUT = {"num_truncated": 50, "num_tokens_cut": 400}


@pytest.mark.parametrize(
    "lengths, way_out",
    [
        ({}, "the model has only 64 positions: shorter texts or a model with more"),
        ({"asked": 512}, "the model has only 64 positions, KEY is 512: shorter texts"),
        ({"positions": 512}, "a larger KEY loses less (the model has 512 positions)"),
        ({"positions": 0}, "a larger KEY loses less"),
    ],
)
def test_much_that_is_cut_is_warned_of_with_a_way_out(lengths, way_out):
    [warning] = tokenization(dev=CUT, **lengths).warnings("KEY")
    said = "mine: 50.0 % of samples are truncated to 64 tokens, which drops 40.0 % of the text; "
    assert warning.startswith(said + way_out)


def test_a_little_is_not_warned_of():
    little = {"num_truncated": 5, "num_tokens_cut": 50, "num_unknown_characters": 150}
    assert list(tokenization(little, little).warnings("KEY")) == []


def test_unknown_text_is_warned_of_and_an_error_if_it_is_nearly_all():
    some = {"num_unknown_tokens": 10, "num_unknown_characters": 200}
    found = tokenization(dev=some, unknown_words=("Große", "Große", "X"), cause="casing")
    assert list(found.warnings("KEY")) == [
        "mine: 4.0 % of the characters of its dev set are unknown to the model's tokenizer, like "
        "'Große', 'X'; likely cause: casing"
    ]
    found.check()
    with pytest.raises(StageError, match=r"mine: 90\.2 % .* of its train set .*another model"):
        tokenization({"num_unknown_characters": 4510}).check()
