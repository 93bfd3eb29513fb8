"""Sources: what is asked for, which files are text, what identifies them."""

import email
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from dataset import shard_data
from dataset.sources.builtin_text import iter_python_docs, prose_paragraphs
from dataset.sources.corpus_files import list_files, relative_name
from dataset.sources.digests import FileDigests, identity_of
from dataset.sources.hub_text import present_name
from dataset.sources.registry import (
    configured_sources,
    customized_source,
    group_slices,
    hub_source,
    local_files,
    open_sources,
    part_bytes,
    problem_with,
    slug,
)
from pipeline.errors import StageError
from pipeline.store.artifacts import Artifact
from tests.dataset.dataset_helpers import read_source

ROOT = Path(__file__).parents[3]


def test_entries_of_the_config(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    sources = configured_sources(
        [["name", "subset"], ["name", "", "validation"], ["name", "", "train", "body"]],
        [str(tmp_path), "builtin:python-docs"],
        "content",
        streaming=True,
    )
    assert [(source.split, source.column) for source in sources[:3]] == [
        ("train", "content"),
        ("validation", "content"),
        ("train", "body"),
    ]
    assert all(source.kind == "hub" and source.streaming for source in sources[:3])
    assert [source.kind for source in sources[3:]] == ["folder", "python-docs"]
    assert sources[3].column == "content"
    assert hub_source(str(tmp_path), "", "key").kind == "folder"  # articles, not lines


def test_folder_order_nesting_and_other_files(tmp_path):
    (tmp_path / "corpus/b").mkdir(parents=True)
    folder = tmp_path / "corpus"
    (folder / "b/1.TXT").write_text("second")
    (folder / "a.txt").write_text("first")
    (folder / "c.txt").write_text("")
    (folder / "wiki").write_text('<doc id="1" title="T">\nT\n\nthird\n</doc>\n')
    (folder / "ignored.md").write_text("not text")
    (folder / "README").write_text("not text")
    (folder / ".hidden.txt").write_text("not text")
    (folder / "linked").symlink_to(folder / "b")
    (folder / "b/circle").symlink_to(folder)
    articles, _, said = read_source(customized_source(str(folder), "key"), tmp_path / "work")
    assert [article.strip() for article in articles] == ["first", "second", "third"]
    assert said == [
        f"{folder}: 2 other files are passed over (README, ignored.md)",
        f"{folder}: 1 empty files (c.txt)",
    ]


def artifact_in(folder, stage, **inputs):
    artifact = Artifact(stage, folder, inputs)
    artifact.begin()
    artifact.finish({})
    return folder


def names_in(folder):
    return [relative_name(path, folder) for path in list_files(folder)[0]]


def test_what_this_program_keeps_is_no_corpus(tmp_path):
    """With the corpus in the folder of the outputs, or made by process_data.py."""
    books = artifact_in(tmp_path / "data/books", "process_data", type="bookcorpus", input="x")
    (books / "bookcorpus_00000.txt").write_text("Text.")
    shards = artifact_in(tmp_path / "data/shards", "shard_data", sources="x")
    for name in ("train_00000.txt", "records/train_00000.txt.json", "shards.json", "digests.json"):
        (shards / name).parent.mkdir(exist_ok=True)
        (shards / name).write_text("{}")
    for name in ("data/id", "tmp/dataset/id"):
        folder = artifact_in(tmp_path / name, "dataset", **{"DATASET.SEED": 1})
        (folder / "tokenizer").mkdir()
        (folder / "tokenizer/vocab.txt").write_text("words")
        (folder / "train_00000.txt").write_text("Text.")
    (tmp_path / "tmp/dataset/digests.json").write_text("{}")
    samples = artifact_in(tmp_path / "data/samples", "generate_samples", tokenizer="x")
    (samples / "masking.json").write_text("{}")
    expected = ["data/books/bookcorpus_00000.txt", "data/shards/train_00000.txt"]
    assert names_in(tmp_path) == expected
    assert names_in(books) == ["bookcorpus_00000.txt"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/manifest.json").write_text('[{"text": "of the user"}]')
    assert names_in(tmp_path / "mine") == ["manifest.json"]


def test_what_is_no_file_is_counted(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text("Text.")
    (folder / "b.txt").symlink_to(folder / "gone.txt")
    os.mkfifo(folder / "c.txt")
    (folder / "d.txt").symlink_to(folder / "d.txt")
    source = customized_source(str(folder), "key")
    articles, _, said = read_source(source, tmp_path / "work")
    assert articles == ["Text."]
    assert said == [f"{folder}: 3 other files are passed over (b.txt, c.txt, d.txt)"]
    identity_of(source, FileDigests(tmp_path / "digests.json"))


def test_a_single_file(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "Words."}')
    source = customized_source(str(tmp_path / "a.jsonl"), "key")
    assert problem_with(source) == ""
    assert read_source(source, tmp_path / "work")[0] == ["Words."]


def test_problems_name_the_key(tmp_path):
    missing = customized_source(str(tmp_path / "gone"), "DATASET.CUSTOMIZED_DATASETS")
    assert problem_with(missing).startswith("DATASET.CUSTOMIZED_DATASETS: ")
    assert "does not exist" in problem_with(missing)
    empty = customized_source(str(tmp_path), "DATASET.CUSTOMIZED_DATASETS")
    assert "holds no text, expected .txt, .jsonl" in problem_with(empty)
    assert "does not exist" in problem_with(hub_source("./gone", "", "K"))
    assert problem_with(hub_source("wikipedia", "20220301.en", "K")) == ""
    (tmp_path / "a.txt").touch()
    with pytest.raises(StageError, match="the sources hold no text"):
        open_sources([customized_source(str(tmp_path), "K")], tmp_path, print)


def test_classic_names():
    assert present_name("wikipedia", "20220301.fr") == ("wikimedia/wikipedia", "20231101.fr")
    for name in ("bookcorpusopen", "bookcorpus"):
        assert present_name(name, "plain_text") == ("lucadiliello/bookcorpusopen", "")
    assert present_name("wikimedia/wikipedia", "x") == ("wikimedia/wikipedia", "x")


def test_slug():
    sources = configured_sources(
        [["wikipedia", "20220301.en"], ["bookcorpusopen", "plain_text"]], ["builtin:python-docs"]
    )
    assert slug(sources) == "wikipedia-bookcorpusopen-python-docs"


def test_identity_covers_all_that_decides_the_text(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/a.jsonl").write_text('{"text": "One."}')
    digests = FileDigests(tmp_path / "digests.json")
    sources = [
        customized_source(str(tmp_path / "a"), "key"),
        customized_source(str(tmp_path / "a"), "key", "body"),
        *(
            hub_source(name, *settings)
            for name in ("name", str(tmp_path / "a"))
            for settings in [
                ("", "key"),
                ("subset", "key"),
                ("", "key", "dev"),
                ("", "key", "", "body"),
                ("", "key", "", "text", True),
            ]
        ),
    ]
    identities = [identity_of(source, digests) for source in sources]
    assert len(set(map(tuple, identities))) == len(sources)
    assert identity_of(customized_source(str(tmp_path / "a"), "other key"), digests) in identities
    os.rename(tmp_path / "a", tmp_path / "b")
    assert identity_of(customized_source(str(tmp_path / "b"), "key"), digests) == identities[0]


def test_sources_of_the_command_line(tmp_path):
    command = "--output_dir out --text_column body --streaming --dataset wikipedia 20220301.en"
    command += f" --dataset name subset dev content --dataset custom {tmp_path}"
    hub, other, custom = shard_data.sources_of(shard_data.parse_arguments(command.split()))
    assert (hub.name, hub.subset, hub.split, hub.column) == (
        "wikipedia", "20220301.en", "train", "body",
    )  # fmt: skip
    assert (other.split, other.column, other.streaming) == ("dev", "content", True)
    assert (custom.kind, custom.column) == ("folder", "body")
    with pytest.raises(SystemExit):
        shard_data.parse_arguments(["--output_dir", "out", "--dataset", "custom", "a", "b"])


@pytest.mark.slow
def test_unknown_hub_names_are_one_line(tmp_path):
    for streaming in (False, True):
        source = hub_source("no-such-owner/no-such-name", "", "K", streaming=streaming)
        with pytest.raises(StageError, match=r"K: dataset no-such-owner/no-such-name is not, or"):
            open_sources([source], tmp_path, print)


def test_small_files_share_a_part(tmp_path, monkeypatch):
    monkeypatch.setattr("dataset.sources.registry.MIN_PART_BYTES", 1000)
    for i in range(20):
        (tmp_path / f"{i:02d}.txt").write_text("x" * 99 + "\n")
    slices = open_sources([customized_source(str(tmp_path), "")], tmp_path, print)
    parts = group_slices(slices)
    assert [len(part) for part in parts] == [10, 10]
    assert [piece for part in parts for piece in part] == slices
    assert part_bytes(1 << 40) == 1 << 30


def test_planning_needs_the_standard_library_alone(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    program = (
        "import sys; from dataset.sources.registry import *; "
        "assert not problem_with(customized_source(sys.argv[1], 'K')); "
        "print({'pyarrow', 'datasets', 'sentencex', 'numpy'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "set()"
    assert len(local_files(customized_source(str(tmp_path), "K"))) == 1


def test_python_docs_are_prose(monkeypatch):
    """Of the library's packages just one is read, as all of them take half a minute."""
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": Path(email.__file__).parent})
    articles = list(iter_python_docs())
    text = "\n\n".join(articles)
    assert 2e5 < len(text) < 2e6
    assert len(articles) > 80
    assert any("MIME" in article for article in articles)
    assert ">>>" not in text and ":func:" not in text and "``" not in text
    assert not any("\n\n" in article for article in articles)


def test_prose_paragraphs_leave_code_out():
    text = """Return the :class:`dict` of *all* names, sorted by ``key``
    and then by value [1].

        x = f(1)

    >>> f(1)
    2

    ====  ====
    a     b
    """
    assert list(prose_paragraphs(text)) == [
        "Return the dict of all names, sorted by key and then by value."
    ]
