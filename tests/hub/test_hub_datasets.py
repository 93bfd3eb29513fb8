"""Datasets of the Hub: subsets, splits, formats, names, what is offline, and the same bytes."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest

from tests.hub.asked import KEY, commit_of, read, text_shards
from tests.hub.repositories import write_card, write_parquet
from tests.hub_server import Fault

WIKIPEDIA = "wikimedia/wikipedia"


def texts_of(folder, pattern="*.parquet"):
    return [
        text
        for file in sorted(folder.rglob(pattern))
        for text in pyarrow.parquet.read_table(file)["text"].to_pylist()
    ]


def num_downloads(hub):
    """Whole files of a dataset that were fetched."""
    return sum(
        request.method == "GET" and request.path.endswith(".parquet") and not request.range
        for request in hub.requests
    )


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "given, home, files",
    [
        (("wikipedia", "20220301.en"), (WIKIPEDIA, "20231101.en"), "20231101.en/*.parquet"),
        (("wikipedia", "20220301.frr"), (WIKIPEDIA, "20231101.frr"), "20231101.frr/*.parquet"),
        (("bookcorpusopen", "plain_text"), ("lucadiliello/bookcorpusopen", ""), "*.parquet"),
        (("bookcorpus", "plain_text"), ("lucadiliello/bookcorpusopen", ""), "*.parquet"),
        ((WIKIPEDIA, "20231101.en"), (), "20231101.en/*.parquet"),
    ],
)
def test_subsets_and_classic_names(hub, online, tmp_path, given, home, files, streaming):
    answer = online.ask(read, tmp_path, *given, "", "text", streaming)
    assert answer.problem == ""
    articles, said = answer.result
    name = (home or given)[0]
    assert articles == texts_of(hub.folder / "datasets" / name, files)
    commit = hub.commit(hub.folder / "datasets" / name)
    assert f"commit {commit[:12]}" in said[-1]
    if home:
        assert said[0] == f"[{', '.join(given)}] is read from its present home [{', '.join(home)}]"


@pytest.mark.slow
def test_only_the_subset_is_fetched_and_once(hub, online, tmp_path, new_repository):
    name, _ = new_repository("datasets", WIKIPEDIA)
    for _ in range(2):
        assert online.ask(read, tmp_path, name, "20231101.frr").problem == ""
        assert num_downloads(hub) == 2
    assert not any("20231101.en/" in request.path for request in hub.requests)


@pytest.mark.slow
def test_splits(online, tmp_path, new_repository):
    name, folder = new_repository("datasets")
    for split in ("train", "validation"):
        write_parquet(
            folder / "data" / f"{split}-00000-of-00001.parquet",
            {"text": [f"{split} {row}" for row in range(4)]},
        )
    assert online.ask(read, tmp_path, name).result[0] == [f"train {row}" for row in range(4)]
    for streaming in (False, True):
        articles, _ = online.ask(read, tmp_path, name, "", "validation", "text", streaming).result
        assert articles == [f"validation {row}" for row in range(4)]
    articles, _ = online.ask(read, tmp_path, name, "default", "train[:50%]").result
    assert articles == ["train 0", "train 1"]


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("ending", ["jsonl", "csv", "json.gz"])
def test_other_formats(online, tmp_path, new_repository, ending, streaming):
    name, folder = new_repository("datasets")
    rows = [{"body": f"article {row}"} for row in range(5)]
    if ending == "csv":
        (folder / "train.csv").write_text("body\n" + "".join(f"{r['body']}\n" for r in rows))
    else:
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        if ending == "json.gz":
            lines = gzip.compress(lines, mtime=0)
        (folder / f"train.{ending}").write_bytes(lines)
    answer = online.ask(read, tmp_path, name, "", "", "body", streaming)
    assert answer.problem == ""
    assert answer.result[0] == [row["body"] for row in rows]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "asked, problem",
    [
        (("20231101.eng",), "has no subset 20231101.eng (did you mean 20231101.en?), it has "),
        (("",), ": name one of its subsets, 20231101.en, 20231101.frr"),
        (("20231101.en", "tran"), "has no split tran, it has train"),
        (("20231101.en", "train", "body"), "has no column `body`, it has id, title, text"),
    ],
)
def test_what_is_not_there_is_said_before_it_is_fetched(
    hub, online, tmp_path, new_repository, asked, problem, streaming
):
    name, _ = new_repository("datasets", WIKIPEDIA)
    subset, split, column = (*asked, "", "text")[:3] if len(asked) < 3 else asked
    column = column or "text"
    answer = online.ask(read, tmp_path, name, subset, split, column, streaming)
    assert problem in answer.problem
    assert answer.problem.startswith(f"{KEY}: ") and name in answer.problem
    assert "\n" not in answer.problem
    assert num_downloads(hub) == 0


def test_a_loading_script_is_not_run(online, tmp_path, new_repository):
    name, folder = new_repository("datasets")
    (folder / "number0.py").write_text("raise SystemExit")
    answer = online.ask(read, tmp_path, name)
    assert answer.problem.startswith(f"{KEY}: dataset {name} cannot be read: ")


@pytest.mark.parametrize("place", ["/etc/passwd", "../../secret.parquet", "http://127.0.0.1:9/x"])
def test_a_readme_names_files_of_its_repository_alone(online, tmp_path, new_repository, place):
    name, folder = new_repository("datasets")
    write_parquet(folder / "inside.parquet", {"text": ["inside"]})
    write_card(folder, {"default": {"train": place}})
    answer = online.ask(read, tmp_path, name)
    assert answer.problem.startswith(f"{KEY}: dataset {name} ")
    assert answer.result is None


@pytest.mark.slow
def test_offline_with_what_was_fetched(hub, online, offline, tmp_path, new_repository):
    name, _ = new_repository("datasets", WIKIPEDIA)
    fetched = online.ask(read, tmp_path, name, "20231101.en")
    hub.requests.clear()
    for streaming in (False, True):
        again = offline.ask(read, tmp_path, name, "20231101.en", "", "text", streaming)
        assert again.problem == "" and again.result == fetched.result
    other = offline.ask(read, tmp_path, name, "20231101.frr")
    assert other.problem.startswith(f"{KEY}: dataset {name} is not, or not as a whole, in the Hub")
    assert other.problem.endswith(
        "HF_HUB_OFFLINE is set; fetch it where there is a network, by the same run or by "
        f"`hf download {name} --repo-type dataset`"
    )
    assert hub.requests == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "patterns", [(), ("--include", "README.md", "--include", "20231101.frr/*")]
)
def test_offline_with_what_the_command_fetched(
    hub, hub_home, offline, tmp_path, new_repository, patterns
):
    name, folder = new_repository("datasets", WIKIPEDIA)
    command = Path(sys.executable).with_name("hf")
    online = {"HF_ENDPOINT": hub.address, "HF_HOME": str(hub_home), "HF_HUB_OFFLINE": "0"}
    subprocess.run(
        [command, "download", name, "--repo-type", "dataset", *patterns],
        env={**os.environ, **online},
        check=True,
        capture_output=True,
    )
    articles, _ = offline.ask(read, tmp_path, name, "20231101.frr").result
    assert articles == texts_of(folder, "20231101.frr/*.parquet")
    other = offline.ask(read, tmp_path, name, "20231101.en")
    assert ("not as a whole" in other.problem) == bool(patterns)


@pytest.mark.slow
def test_offline_with_a_part_of_the_files(hub_home, online, offline, tmp_path, new_repository):
    """What is missing in the cache is not passed over."""
    name, _ = new_repository("datasets", WIKIPEDIA)
    online.ask(read, tmp_path, name, "20231101.en")
    place = hub_home / "hub" / f"datasets--{name.replace('/', '--')}"
    next(place.rglob("train-00001*.parquet")).unlink()
    answer = offline.ask(read, tmp_path, name, "20231101.en")
    assert "not, or not as a whole, in the Hub's cache" in answer.problem


def test_a_hub_that_is_not_reached_is_replaced_by_the_cache(hub, online, tmp_path, new_repository):
    name, _ = new_repository("datasets", WIKIPEDIA)
    fetched = online.ask(read, tmp_path, name, "20231101.en")
    hub.faults = [Fault("", status=503)]
    again = online.ask(read, tmp_path, name, "20231101.en")
    assert again.result == fetched.result
    assert "the Hub: Could not reach the Hub" in again.printed
    assert "503 Service Unavailable" in again.printed


@pytest.mark.slow
def test_an_interrupted_run_stays_with_its_commit(online, tmp_path, new_repository):
    name, folder = new_repository("datasets", WIKIPEDIA)
    before = texts_of(folder, "20231101.en/*.parquet")
    commit = online.ask(commit_of, name, "dataset").result
    online.ask(read, tmp_path, name, "20231101.en")
    write_parquet(folder / "20231101.en" / "train-00000-of-00002.parquet", {"text": ["new"]})
    shutil.rmtree(folder / "20231101.frr")
    pinned = online.ask(read, tmp_path, name, "20231101.en", "", "text", False, commit)
    assert pinned.result[0] == before
    articles, _ = online.ask(read, tmp_path, name, "20231101.en").result
    assert articles[0] == "new" and len(articles) == 31


@pytest.mark.slow
def test_bytes_are_those_of_a_folder(hub, online, tmp_path):
    folder = str(hub.folder / "datasets" / WIKIPEDIA)
    asked = ((folder, False), (WIKIPEDIA, False), (WIKIPEDIA, True))
    made = [
        online.ask(text_shards, tmp_path / str(number), name, "20231101.en", streaming)
        for number, (name, streaming) in enumerate(asked)
    ]
    assert [answer.problem for answer in made] == ["", "", ""]
    local, downloaded, streamed = (answer.result for answer in made)
    assert len(local) == 5 and sum(map(len, local.values())) > 1000
    assert downloaded == streamed == local
