"""Every reader of text, tokenizers and samples against broken files (tests/broken_files.py)."""

import bz2
import dataclasses
import functools
import gzip
import io
import json
import tempfile
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from dataset.command_line import list_text_shards
from dataset.samples.hdf5_files import SampleWriter, count_samples, read_samples
from dataset.samples.packing import iter_article_tokens
from dataset.shards.passages import whole_shard
from dataset.sources.article_stream import Tally
from dataset.sources.digests import FileDigests, identity_of
from dataset.sources.registry import (
    Source,
    customized_source,
    hub_source,
    local_files,
    open_in_subprocess,
    open_source,
    problem_with,
)
from dataset.sources.source_checks import notes_on_heads, problems_with_heads
from dataset.sources.wiki_and_books import ArticlesJob, find_files, write_articles
from dataset.tokenizers.build import build_tokenizer, problem_with_tokenizer
from dataset.tokenizers.load import load_tokenizer
from dataset.tokenizers.tokenizer_files import SPECIAL_TOKENS, read_vocabulary
from pipeline.errors import ConfigError, StageError
from tests.broken_files import (
    CHANGED,
    COMPLETE,
    CUTS,
    ENCODINGS,
    FLIPS,
    NOTHING,
    ODD,
    OTHERS,
    REFUSED,
    REPORTED,
    Case,
    Found,
    Reader,
    cases_of,
    die,
    odd_cases_of,
    rows_of,
    writing,
)
from tests.dataset.dataset_helpers import save_bert_tokenizer, shard

TEXTS = [
    f'Article {number} is naïve, {number} km "long" (café).\nIts second line: 中文, déjà {number}.'
    for number in range(40)
]
ONE_LINE = [" ".join(text.split()) for text in TEXTS]
SLICE_BYTES = 1 << 25


def words_of(articles: Sequence[str]) -> list[str]:
    """Where an article ends is not looked at: a file in whose middle a CR stands tells less."""
    return " ".join(articles).split()


# --- corpora ----------------------------------------------------------------------------------


def read_source(source: Source) -> Found:
    """As the pipeline does: a plan, with digests, and then the text."""
    if problem := problem_with(source):
        raise ConfigError([problem])
    if problems := problems_with_heads([source], local_files):
        raise ConfigError(problems)
    notes_on_heads([source], local_files)
    identity_of(source, FileDigests(Path(source.name) / "no-digests.json"))
    with tempfile.TemporaryDirectory() as work_dir:
        slices, said = open_source((source, "0", Path(work_dir), SLICE_BYTES))
        articles, tally = [], Tally()
        for piece in slices:
            with tally.of_file(piece.path):
                articles += [text for _, text, _ in piece.pieces(1 << 20, tally)]
    reports = [f"{count}: {number}" for count, number in tally.counts.items() if number]
    return Found(words_of(articles), [*said, *reports])


def read_folder(path: Path) -> Found:
    return read_source(customized_source(str(path.parent), "DATASET.CUSTOMIZED_DATASETS"))


def read_local_dataset(path: Path) -> Found:
    return read_source(hub_source(str(path.parent), "", "DATASET.HUGGINGFACE_DATASETS"))


def read_streamed(path: Path) -> Found:
    return read_source(hub_source(str(path.parent), "", "key", streaming=True))


def read_by_process_data(kind: str, path: Path) -> Found:
    files, num_others = find_files(path.parent, kind)
    with tempfile.TemporaryDirectory() as folder:
        job = ArticlesJob(Path(folder) / "a.txt", tuple(files), kind)
        counts, _ = write_articles(job)
        words = words_of([job.path.read_text(encoding="utf-8")])
    dropped = [name for name in counts if counts[name] and name not in ("bytes", "articles")]
    return Found(words, [*dropped, *(["others"] if num_others else [])])


def read_saved_dataset(path: Path) -> Found:
    path.with_name("state.json").write_text(json.dumps({"_data_files": [{"filename": path.name}]}))
    path.with_name("dataset_info.json").write_text("{}")
    return read_folder(path)


def plain() -> bytes:
    return ("\n\n".join(TEXTS) + "\n").encode()


def long_lines() -> bytes:
    return "".join(f"{line} {'word ' * 250}\n" for line in ONE_LINE).encode()


def json_lines(texts: Sequence[str] = TEXTS) -> bytes:
    rows = (json.dumps({"id": i, "text": t}, ensure_ascii=False) for i, t in enumerate(texts))
    return "".join(f"{row}\n" for row in rows).encode()


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def csv_file(mark: str = ",") -> bytes:
    rows = (f"{number}{mark}{quoted(text)}\n" for number, text in enumerate(TEXTS))
    return "".join([f"id{mark}text\n", *rows]).encode()


def tsv_file() -> bytes:
    return "".join(["id\ttext\n", *(f"{i}\t{t}\n" for i, t in enumerate(ONE_LINE))]).encode()


def wiki_elements() -> bytes:
    docs = (f'<doc id="{i}" title="T {i}">\nT {i}\n\n{t}\n\n</doc>\n' for i, t in enumerate(TEXTS))
    return "".join(docs).encode()


def zstandard(content: bytes) -> bytes:
    import pyarrow

    return pyarrow.Codec("zstd").compress(content, asbytes=True)


def table_of(content: bytes, column: str = "text"):
    import pyarrow

    texts = content.decode().split("\n\n")
    return pyarrow.table({"id": range(len(texts)), column: texts})


def parquet_of(table) -> bytes:
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file, row_group_size=15, write_page_checksum=True)
    return file.getvalue()


def arrow_of(table) -> bytes:
    import pyarrow

    file = io.BytesIO()
    with pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, 15)
    return file.getvalue()


ALL = (CUTS, FLIPS, NOTHING, OTHERS, ENCODINGS)
BYTES = (CUTS, FLIPS, NOTHING, OTHERS)
PLAIN = Reader("txt", "a.txt", plain(), read_folder)
LONG_LINES = Reader("txt, an article per line", "a.txt", long_lines(), read_folder)
JSON_LINES = Reader("jsonl", "a.jsonl", json_lines(), read_folder)
CSV = Reader("csv", "a.csv", csv_file(), read_folder)
TSV = Reader("tsv", "a.tsv", tsv_file(), read_folder)
WIKI = Reader("WikiExtractor", "AA/wiki_00", wiki_elements(), read_folder)
WIKI_JSON = Reader("WikiExtractor, JSON", "AA/wiki_00", json_lines(), read_folder)
GZIP = Reader("txt.gz", "a.txt.gz", plain(), read_folder, gzip.compress, True, True)
BZIP2 = Reader("jsonl.bz2", "a.jsonl.bz2", json_lines(), read_folder, bz2.compress, True, True)
ZSTD = Reader("csv.zst", "a.csv.zst", csv_file(), read_folder, zstandard, True)
PARQUET = Reader(
    "parquet",
    "a.parquet",
    "\n\n".join(TEXTS).encode(),
    read_folder,
    lambda content: parquet_of(table_of(content)),
    has_end=True,
)
SAVED = Reader(
    "saved dataset",
    "a.arrow",
    PARQUET.content,
    read_saved_dataset,
    lambda content: arrow_of(table_of(content)),
    has_end=True,
)
BOOKS = Reader(
    "process_data, books", "a.txt", plain(), functools.partial(read_by_process_data, "bookcorpus")
)
DUMP = Reader(
    "process_data, wiki",
    "wiki_00",
    wiki_elements(),
    functools.partial(read_by_process_data, "wiki"),
)
CORPORA = (PLAIN, LONG_LINES, JSON_LINES, CSV, TSV, WIKI, WIKI_JSON, GZIP, BZIP2, ZSTD)


def json_row(text: object) -> bytes:
    return json.dumps({"text": text}).encode() + b"\n"


JSON_ROWS = {
    "no_objects": (b'"a"\n1\nnull\n[]\n', REFUSED),
    "a_row_without_text": (json_lines() + b'{"id": 1}\n', REPORTED),
    "first_row_without_text": (b'{"id": 1}\n' + json_lines(), REFUSED),
    "text_is_a_number": (json_lines() + json_row(1.5), REPORTED),
    "text_is_a_list": (json_lines() + json_row(["a"]), REPORTED),
    "text_is_null": (json_lines() + json_row(None), REPORTED),
    "text_is_empty": (json_lines() + json_row(""), COMPLETE),
    "half_a_pair": (json_lines() + b'{"text": "\\ud83d"}\n', REPORTED),
    "trailing_comma": (json_lines() + b'{"text": "a",}\n', REPORTED),
    "two_objects_in_a_line": (json_lines() + b'{"text": "a"} {"text": "b"}\n', REPORTED),
    "over_several_lines": (b'{\n"text": "a"\n}\n', REFUSED),
    "an_array": (b'[{"text": "a"}]', REFUSED),
    "nested_deeply": (json_lines() + b"[" * 200_000 + b"\n", REPORTED),
    "nested_in_the_text": (b'{"text": ' + b"[" * 200_000 + b"\n" + json_lines(), REPORTED),
    "a_huge_number": (json_lines() + b'{"text": ' + b"9" * 5000 + b"}\n", REPORTED),
    "not_a_number": (json_lines() + b'{"text": NaN}\n', REPORTED),
    "a_text_file": (plain(), REFUSED),
}
CSV_ROWS = {
    "just_a_header": (b"id,text\n", CHANGED),
    "no_such_column": (csv_file().replace(b"text", b"body", 1), REFUSED),
    "column_twice": (csv_file().replace(b"id", b"text", 1), REFUSED),
    "no_header": (csv_file().split(b"\n", 1)[1], REFUSED),
    "too_few_columns": (csv_file() + b"41\n", REPORTED),
    "too_many_columns": (csv_file() + b"41,a,b,c\n", REPORTED),
    "an_unclosed_quote": (csv_file() + b'41,"not closed\n', REPORTED),
    "an_unclosed_quote_in_front": (csv_file().replace(b'0,"', b'0,"x","', 1), REPORTED),
    "tabs_for_commas": (tsv_file(), REFUSED),
    "empty_rows": (csv_file() + b"\n\n\n", COMPLETE),
    "an_empty_header": (b"\n\n" + csv_file(), COMPLETE),
    "semicolons": (csv_file(";"), COMPLETE),
    "a_large_header": (b"x" * 300_000 + b"\n" + csv_file(), REFUSED),
    "many_columns": (b"," * 300_000 + b"\n" + csv_file(), REFUSED),
}
TSV_ROWS = {
    "just_a_header": (b"id\ttext\n", CHANGED),
    "no_such_column": (tsv_file().replace(b"text", b"body", 1), REFUSED),
    "column_twice": (tsv_file().replace(b"id", b"text", 1), REFUSED),
    "no_header": (tsv_file().split(b"\n", 1)[1], REFUSED),
    "too_few_columns": (tsv_file() + b"41\n", REPORTED),
    "too_many_columns": (tsv_file() + b"41\ta\tb\n", REPORTED),
    "empty_rows": (tsv_file() + b"\n\n\n", COMPLETE),
    "commas_for_tabs": (csv_file(), REFUSED),
}
WIKI_ROWS = {
    "no_end": (wiki_elements().replace(b"</doc>", b"", 1), CHANGED),
    "one_element": (b'<doc id="1" title="T">\nT\n', CHANGED),
    "just_a_tag": (b"<doc ", CHANGED),
}


def parquet_tables() -> dict[str, tuple[bytes, str]]:
    import pyarrow

    table = table_of(PARQUET.content)
    numbers, nested = pyarrow.array(range(40)), pyarrow.array([["a"]] * 40)
    twice = pyarrow.table([table["text"], table["text"]], names=["text", "text"])
    with_nulls = pyarrow.concat_tables([table, pyarrow.table({"id": [1], "text": [""]})])
    return {
        "no_rows": (parquet_of(table[:0]), CHANGED),
        "no_such_column": (parquet_of(table.rename_columns(["id", "body"])), REFUSED),
        "numbers": (parquet_of(pyarrow.table({"text": numbers})), REFUSED),
        "lists": (parquet_of(pyarrow.table({"text": nested})), REFUSED),
        "bytes": (parquet_of(pyarrow.table({"text": [b"a"] * 40})), REFUSED),
        "column_twice": (parquet_of(twice), REFUSED),
        "an_empty_text": (parquet_of(with_nulls), COMPLETE),
        "two_files_in_one": (parquet_of(table) * 2, COMPLETE),
    }


def parquet_rows() -> Iterator[Case]:
    for name, (content, outcome) in parquet_tables().items():
        yield Case(PARQUET, name, writing(content), frozenset((outcome,)))


def neighbours() -> Iterator[Case]:
    """What is no file beside a whole one; the rest of the folder is read."""

    def beside(make):
        def write(path: Path) -> None:
            path.write_bytes(PLAIN.content)
            make(path.with_name("b.txt"))

        return write

    for name, make in ODD.items():
        allowed = (COMPLETE,) if name == "a_folder" else (REFUSED, REPORTED)
        yield Case(PLAIN, f"beside_{name}", beside(make), frozenset(allowed))


def records() -> Iterator[Case]:
    """Files that have the names of this program's records."""

    def beside(name: str, make):
        def write(path: Path) -> None:
            path.write_bytes(PLAIN.content)
            make(path.with_name(name))

        return write

    for record in ("manifest.json", "started.json"):
        for name, make in ODD.items():
            case = f"{record}_is_{name}"
            yield Case(PLAIN, case, beside(record, make))
        deep = writing(b'{"a":' * 100_000)
        yield Case(PLAIN, f"{record}_is_deep", beside(record, deep))


def as_the_source() -> Iterator[Case]:
    """Named in the config instead of a folder."""

    def read(path: Path) -> Found:
        return read_source(customized_source(str(path), "DATASET.CUSTOMIZED_DATASETS"))

    for file in ("a.txt", "a.parquet", "wiki_00"):
        yield from odd_cases_of(Reader(f"{file} itself", file, b"", read))


# --- local folders in place of Hub datasets ---------------------------------------------------

DATASETS = (
    Reader("datasets, csv", "a.csv", csv_file(), read_local_dataset, names_folder=True),
    Reader("datasets, jsonl", "a.jsonl", json_lines(), read_local_dataset, names_folder=True),
    Reader(
        "datasets, parquet",
        "a.parquet",
        PARQUET.content,
        read_local_dataset,
        PARQUET.pack,
        has_end=True,
        names_folder=True,
    ),
    Reader(
        "datasets, arrow",
        "a.arrow",
        PARQUET.content,
        read_local_dataset,
        lambda content: arrow_of(table_of(content)),
        has_end=True,
        names_folder=True,
    ),
)
STREAMED = Reader("streamed, jsonl", "a.jsonl", json_lines(), read_streamed, names_folder=True)


def dataset_cases() -> Iterator[Case]:
    """Few, as `datasets` takes its time."""
    few = {"half", "first_byte", "without_last_bytes", "zeros_inside", "flipped_at_0.5", "noise"}
    few |= {"empty", "blank", "zeros", "a_web_page", "an_archive", "utf16", "utf16_le", "latin1"}
    for reader in (*DATASETS, STREAMED):
        damages = ALL if reader.pack is bytes else BYTES
        yield from (case for case in cases_of(reader, damages) if case.name in few)
    yield from odd_cases_of(DATASETS[0])


# --- tokenizers -------------------------------------------------------------------------------

VOCABULARY = [*SPECIAL_TOKENS.values(), "naïve", "café", "the", "##s", *"abcdefghij"]


def read_vocab_txt(path: Path) -> Found:
    if problem := problem_with_tokenizer(str(path), True):
        raise ConfigError([problem])
    return Found(read_vocabulary(path))


def read_tokenizer(path: Path) -> Found:
    """A folder, read as far as the plan does, and then as the stage does."""
    if problem := problem_with_tokenizer(str(path.parent), True):
        raise ConfigError([problem])
    with tempfile.TemporaryDirectory() as folder:
        build_tokenizer(str(path.parent), True, Path(folder) / "tokenizer")
        loaded = load_tokenizer(Path(folder) / "tokenizer")
    return Found((loaded.special_ids, loaded.banned_ids, loaded.encode(["the naïves café"])))


@functools.cache
def tokenizer_json() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        save_bert_tokenizer(VOCABULARY, True, Path(folder) / "tokenizer")
        return (Path(folder) / "tokenizer/tokenizer.json").read_bytes()


def changed_json(**parts) -> bytes:
    """tokenizer.json with other parts; None takes one out."""
    content = json.loads(tokenizer_json()) | parts
    return json.dumps({name: part for name, part in content.items() if part is not None}).encode()


def tokenizer_rows() -> dict[str, tuple[bytes, str]]:
    content = json.loads(tokenizer_json())
    model, (first, *others) = content["model"], content["added_tokens"]
    entries = model["vocab"]

    def with_entries(**changes) -> bytes:
        return changed_json(model=model | {"vocab": entries | changes})

    return {
        "a_list": (b"[]", REFUSED),
        "no_object": (b'"text"', REFUSED),
        "an_empty_object": (b"{}", REFUSED),
        "nested_deeply": (b"[" * 200_000, REFUSED),
        "no_model": (changed_json(model=None), REFUSED),
        "model_is_text": (changed_json(model="WordPiece"), REFUSED),
        "no_vocabulary": (changed_json(model={"type": "WordPiece"}), REFUSED),
        "vocabulary_is_a_number": (changed_json(model=model | {"vocab": 3}), REFUSED),
        "vocabulary_is_empty": (changed_json(model=model | {"vocab": {}}), REFUSED),
        "an_id_is_text": (with_entries(the="7"), REFUSED),
        "an_id_is_negative": (with_entries(the=-7), REFUSED),
        "an_id_is_huge": (with_entries(the=10**12), REFUSED),
        "an_id_is_no_whole_number": (with_entries(the=7.5), REFUSED),
        "an_id_twice": (with_entries(the=8), REFUSED),
        "unknown_model": (changed_json(model=model | {"type": "Nothing"}), REFUSED),
        "added_tokens_are_text": (changed_json(added_tokens="x"), REFUSED),
        "added_tokens_are_texts": (changed_json(added_tokens=["x"]), REFUSED),
        "an_added_token_without_id": (changed_json(added_tokens=[{"content": "x"}]), REFUSED),
        "an_added_token_is_huge": (
            changed_json(added_tokens=[first | {"id": 1 << 40}, *others]),
            REFUSED,
        ),
        "normalizer_is_text": (changed_json(normalizer="lower"), REFUSED),
        "normalizer_is_a_list": (changed_json(normalizer=[]), REFUSED),
        "steps_are_texts": (
            changed_json(normalizer={"type": "Sequence", "normalizers": ["a"]}),
            REFUSED,
        ),
        "unknown_normalizer": (changed_json(normalizer={"type": "Nothing"}), REFUSED),
        "keeps_the_case": (
            changed_json(normalizer=content["normalizer"] | {"lowercase": False}),
            REFUSED,
        ),
        "no_mask": (
            changed_json(
                model=model | {"vocab": {k: v for k, v in entries.items() if k != "[MASK]"}},
                added_tokens=[token for token in (first, *others) if token["id"] != 4],
            ),
            REFUSED,
        ),
    }


def settings_rows() -> dict[str, tuple[bytes, str]]:
    return {
        "a_list": (b"[]", REFUSED),
        "cut": (b'{"do_lower_case": tr', REFUSED),
        "noise": (OTHERS["noise"](b""), REFUSED),
        "nested_deeply": (b"[" * 200_000, REFUSED),
        "a_token_is_a_number": (b'{"mask_token": 4}', REFUSED),
        "a_token_is_a_list": (b'{"mask_token": ["[MASK]"]}', REFUSED),
        "a_token_has_no_content": (b'{"mask_token": {"id": 4}}', REFUSED),
        "an_unknown_token": (b'{"mask_token": "<mask>"}', REFUSED),
        "a_length_is_text": (b'{"model_max_length": "long"}', COMPLETE),
        "a_length_is_no_number": (b'{"model_max_length": NaN}', COMPLETE),
        "a_length_is_negative": (b'{"model_max_length": -1}', COMPLETE),
        "empty_object": (b"{}", COMPLETE),
    }


VOCAB_TXT = Reader(
    "vocab.txt", "vocab.txt", "".join(f"{entry}\n" for entry in VOCABULARY).encode(), read_vocab_txt
)
TOKENIZER = Reader(
    "tokenizer.json",
    "model/tokenizer.json",
    tokenizer_json(),
    read_tokenizer,
    has_end=True,
    names_folder=True,
)


def read_settings(path: Path) -> Found:
    (path.parent / "tokenizer.json").write_bytes(tokenizer_json())
    return read_tokenizer(path)


SETTINGS = Reader(
    "tokenizer_config.json", "model/tokenizer_config.json", b"{}", read_settings, names_folder=True
)
TOKEN_MAP = Reader(
    "special_tokens_map.json",
    "model/special_tokens_map.json",
    b"{}",
    read_settings,
    names_folder=True,
)


def vocabulary_rows() -> dict[str, tuple[bytes, str]]:
    content = VOCAB_TXT.content
    return {
        "an_entry_twice": (content + b"the\n", REFUSED),
        "two_blank_lines_inside": (content.replace(b"the\n", b"\n\nthe\n"), REFUSED),
        "no_mask": (content.replace(b"[MASK]\n", b""), REFUSED),
        "counts_beside_the_entries": (content.replace(b"\n", b"\t5\n"), REFUSED),
        "a_json_file": (tokenizer_json(), REFUSED),
    }


def odd_beside_a_vocabulary() -> Iterator[Case]:
    """tokenizer.json is no file, and vocab.txt is whole: that is not taken in its place."""

    def beside(make):
        def write(path: Path) -> None:
            path.with_name("vocab.txt").write_bytes(VOCAB_TXT.content)
            make(path)

        return write

    for name, make in ODD.items():
        yield Case(TOKENIZER, f"{name}_beside_vocab.txt", beside(make), frozenset((REFUSED,)))


def tokenizer_cases() -> Iterator[Case]:
    # What a vocabulary's entries are is not known, so that any line may be one.
    told = frozenset((REFUSED, COMPLETE))
    yield from cases_of(VOCAB_TXT, BYTES)
    for case in cases_of(VOCAB_TXT, (ENCODINGS,)):
        yield Case(
            case.reader,
            case.name,
            case.write,
            told | {CHANGED}
            if case.name in ("blank_lines_at_the_end", "latin1", "cp437")
            else told,
        )
    yield from odd_cases_of(VOCAB_TXT)
    yield from rows_of(VOCAB_TXT, vocabulary_rows())
    yield from cases_of(TOKENIZER, ALL)
    yield from odd_cases_of(TOKENIZER)
    yield from odd_beside_a_vocabulary()
    yield from rows_of(TOKENIZER, tokenizer_rows())
    yield from rows_of(SETTINGS, settings_rows())
    yield from odd_cases_of(SETTINGS)
    bad = {name: row for name, row in settings_rows().items() if name in ("a_list", "cut", "noise")}
    yield from rows_of(TOKEN_MAP, bad)


# --- text shards and samples ------------------------------------------------------------------


def read_text_shard(path: Path) -> Found:
    """As generate_samples.py does, the tokenizer apart, which is bytes to ids here."""
    import numpy as np

    path.with_name("test_00000.txt").write_bytes(b"A held-out article.\n\n")
    shards = list_text_shards(path.parent)

    def encode(texts: Sequence[bytes]) -> list[np.ndarray]:
        return [np.frombuffer(text.decode().encode(), np.uint8) for text in texts]

    return Found([bytes(ids) for ids, _ in iter_article_tokens(whole_shard(shards[0]), encode)])


def read_sample_file(path: Path) -> Found:
    num_samples, samples = count_samples(path), read_samples(path)
    arrays = {name: (array.dtype.str, array.tobytes()) for name, array in samples.items()}
    return Found((num_samples, arrays))


def arrays(num_rows: int = 40, length: int = 32, predictions: int = 5) -> dict:
    import numpy as np

    rng = np.random.default_rng(0)
    return {
        "input_ids": rng.integers(1, 30_000, (num_rows, length)).astype(np.uint16),
        "input_mask": np.ones((num_rows, length), np.uint8),
        "segment_ids": np.zeros((num_rows, length), np.uint8),
        "masked_lm_positions": rng.integers(1, length, (num_rows, predictions)).astype(np.uint16),
        "masked_lm_ids": rng.integers(1, 30_000, (num_rows, predictions)).astype(np.uint16),
    }


@functools.cache
def sample_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.hdf5"
        with SampleWriter(path, "fingerprint") as writer:
            writer.write(arrays())
            writer.finish({"tokens": 3})
        return path.read_bytes()


def foreign_file(**changes) -> bytes:
    """A file of another program, with some other arrays; None takes one out."""
    import h5py

    file = io.BytesIO()
    with h5py.File(file, "w") as content:
        for name, array in {**arrays(), **changes}.items():
            if array is not None:
                content[name] = array
    return file.getvalue()


def foreign_rows() -> dict[str, tuple[bytes, str]]:
    import numpy as np

    whole = arrays()
    ids, positions = whole["input_ids"], whole["masked_lm_positions"]
    return {
        "no_ids": (foreign_file(input_ids=None), REFUSED),
        "no_positions": (foreign_file(masked_lm_positions=None), REFUSED),
        "fewer_rows": (foreign_file(input_mask=whole["input_mask"][:-1]), REFUSED),
        "other_lengths": (foreign_file(segment_ids=whole["segment_ids"][:, :-1]), REFUSED),
        "one_dimension": (
            foreign_file(**{name: array[:, 0] for name, array in whole.items()}),
            REFUSED,
        ),
        "floats": (foreign_file(input_ids=ids.astype(np.float32)), REFUSED),
        "texts": (foreign_file(input_ids=np.full(ids.shape, b"a")), REFUSED),
        "a_scalar": (foreign_file(input_ids=5), REFUSED),
        "negative_ids": (foreign_file(input_ids=ids.astype(np.int32) - 20_000), REFUSED),
        "a_position_behind_the_row": (foreign_file(masked_lm_positions=positions + 30), REFUSED),
    }


TEXT_SHARD = Reader(
    "text shard", "shards/train_00000.txt", plain(), read_text_shard, names_folder=True
)
SAMPLES = Reader(
    "samples", "train_00000.hdf5", sample_file(), read_sample_file, has_end=True, has_checksum=True
)
FOREIGN_SAMPLES = Reader(
    "samples of other toolkits",
    "train_shard_0.hdf5",
    foreign_file(),
    read_sample_file,
    has_end=True,
)


def sample_cases() -> Iterator[Case]:
    yield from cases_of(SAMPLES, BYTES)
    every = range(0, len(SAMPLES.content), len(SAMPLES.content) // 60)
    for place in every:
        content = bytearray(SAMPLES.content)
        content[place] ^= 0xFF
        yield Case(SAMPLES, f"byte_{place}", writing(bytes(content)))
    yield from odd_cases_of(SAMPLES)
    yield from cases_of(FOREIGN_SAMPLES, (CUTS, FLIPS))
    yield from rows_of(FOREIGN_SAMPLES, foreign_rows())
    named = {"no_utf8_inside", "half_a_character", "a_surrogate", "latin1", "crlf", "utf16"}
    yield from cases_of(TEXT_SHARD, (CUTS, NOTHING, OTHERS))
    yield from (case for case in cases_of(TEXT_SHARD, (ENCODINGS,)) if case.name in named)
    yield from odd_cases_of(TEXT_SHARD)


# --- all of them ------------------------------------------------------------------------------


def corpus_cases() -> Iterator[Case]:
    for reader in (*CORPORA, BOOKS, DUMP):
        yield from cases_of(reader, ALL)
    for reader in (PARQUET, SAVED):
        yield from cases_of(reader, BYTES)
    yield from odd_cases_of(dataclasses.replace(SAVED, names_folder=True))
    for reader in (JSON_LINES, BZIP2):
        yield from rows_of(reader, JSON_ROWS)
    for reader in (CSV, ZSTD):
        yield from rows_of(reader, CSV_ROWS)
    yield from rows_of(TSV, TSV_ROWS)
    yield from rows_of(WIKI, WIKI_ROWS)
    yield from parquet_rows()
    yield from neighbours()
    yield from records()
    yield from as_the_source()


CASES = [*corpus_cases(), *dataset_cases(), *tokenizer_cases(), *sample_cases()]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_broken_file_is_refused_or_reported(case, tmp_path):
    assert case.outcome(tmp_path) in case.allowed


# --- a line without end -----------------------------------------------------------------------

LINE_BYTES, MEMORY = 32 << 20, 16 << 20
LAST = "the last one"


def endless_line(path: Path, begin: bytes, end: bytes, fill: bytes) -> None:
    with gzip.open(path, "wb", 1) if path.suffix == ".gz" else open(path, "wb") as file:
        file.write(begin)
        for _ in range(LINE_BYTES >> 20):
            file.write(fill * (1 << 20))
        file.write(end)


@pytest.mark.slow
@pytest.mark.parametrize("fill", [b"x", b"\0"], ids=["letters", "zeros"])
@pytest.mark.parametrize(
    ("name", "begin", "end", "count"),
    [
        ("a.txt", b"", b"\n\nthe last one\n", ""),
        ("a.txt.gz", b"", b"\n\nthe last one\n", ""),
        ("wiki_00", b'<doc id="1" title="T">\n', b'\n</doc>\n<doc id="2">\nthe last one\n', ""),
        ("a.jsonl", b'{"text": "', b'"}\n{"text": "the last one"}\n', "oversized_rows"),
        ("a.csv", b'id,text\n0,"', b'"\n1,the last one\n', "oversized_rows"),
        ("a.tsv", b"id\ttext\n0\t", b"\n1\tthe last one\n", "oversized_rows"),
    ],
    ids=["txt", "txt.gz", "wiki", "jsonl", "csv", "tsv"],
)
def test_memory_does_not_grow_with_a_line(tmp_path, monkeypatch, fill, name, begin, end, count):
    for module in ("dataset.sources.text_files", "pipeline.user_files.delimited_files"):
        monkeypatch.setattr(f"{module}.MAX_ROW_BYTES", 1 << 20)
    endless_line(tmp_path / name, begin, end, fill)
    source, tally, last = customized_source(str(tmp_path), "key"), Tally(), ""
    tracemalloc.start()
    for piece in open_source((source, "0", tmp_path, 4 << 20))[0]:
        for _, text, _ in piece.pieces(1 << 20, tally):
            last = text
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEMORY
    assert last.strip() == LAST
    assert not count or tally.counts[count] == 1
    assert count or fill == b"x" or tally.counts["nul_characters"] == LINE_BYTES


@pytest.mark.slow
def test_memory_does_not_grow_with_a_line_of_a_text_shard(tmp_path):
    endless_line(tmp_path / "train_00000.txt", b"", b"\n\nthe last one\n\n", b"x y")
    tracemalloc.start()
    passage = whole_shard(tmp_path / "train_00000.txt")
    sizes = [len(ids) for ids, _ in iter_article_tokens(passage, list)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * MEMORY  # pieces of 4 MiB, of a line of 96
    assert sum(sizes) == 3 * LINE_BYTES + len(LAST)


def test_a_vocabulary_of_any_size_is_not_read_into_memory(tmp_path):
    with open(tmp_path / "vocab.txt", "wb") as file:
        file.truncate(1 << 40)  # takes no space
    assert "larger than 256 MiB" in problem_with_tokenizer(str(tmp_path / "vocab.txt"), True)


# --- while the stage is at work ---------------------------------------------------------------


def test_a_file_that_becomes_shorter_is_no_shorter_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(PLAIN.content)
    slices, _ = open_source((customized_source(str(tmp_path), "key"), "0", tmp_path, 1000))
    path.write_bytes(PLAIN.content[:1500])
    with pytest.raises(StageError, match=r"a\.txt: has become shorter"):
        for piece in slices:
            list(piece.pieces(1 << 20, Tally()))


def test_what_cannot_be_decoded_is_told_with_its_file(tmp_path):
    for name, text in (("a.txt", "Fine."), ("b.txt", "A naïve café. And another.")):
        (tmp_path / name).write_bytes(text.encode("latin-1"))
    found = shard(customized_source(str(tmp_path), "key"), tmp_path / "shards")
    assert found["counts"] == {"undecodable_characters": 2}
    assert found["notes"] == [
        f"{tmp_path}/b.txt: 2 undecodable characters, "
        "expected UTF-8 (from Latin-1: iconv -f latin1 -t utf-8)"
    ]


def test_a_file_that_ends_the_process_that_opens_it_is_told_with_its_source(monkeypatch):
    """As damaged statistics in a Parquet file do, of which no exception can be made."""
    monkeypatch.setattr("dataset.sources.registry.open_source", die)
    with pytest.raises(StageError, match=r"^/some/corpus: while it was opened, a worker process"):
        open_in_subprocess([(customized_source("/some/corpus", "key"), "0", None, 1)])
