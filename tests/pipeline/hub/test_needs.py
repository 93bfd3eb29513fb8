"""Access to the Hub is checked before the first stage. The server is on loopback."""

import json
import time
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from configs.defaults import get_default_config
from dataset.shards.file_records import write_record
from pipeline.errors import ConfigError
from pipeline.hub import needs, probe
from pipeline.hub.needs import HubNeed, hub_problems
from pipeline.orchestrator import plan_steps, run_pipeline
from pipeline.store.atomic_files import write_sealed
from tests.plans import dataset_artifact, dataset_estimate

TOKEN = "hf_planted0123456789ABCDEF"
SHA = "0" * 40
DRY = ("dataset", "pretrain", "finetune", "result_collection")


class Hub(BaseHTTPRequestHandler):
    """Repositories by name: public/*, gated/* (files for TOKEN alone), slow/*, broken/*."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.note()
        kind, _, name = self.path.removeprefix("/api/").partition("/")
        if self.headers.get("Authorization") not in (None, f"Bearer {TOKEN}"):
            message = "Invalid credentials in Authorization header"
            return self.answer(401, {"error": message}, {"X-Error-Message": message})
        if name.startswith("slow/"):
            time.sleep(1.5)
        if name.startswith("broken/"):
            return self.answer(501, {"error": "broken"})
        if name.startswith("busy/") and len(self.server.seen) < 2:
            return self.answer(503, {"error": "busy"})
        if name.startswith("later/"):
            return self.answer(429, {"error": "later"}, {"Retry-After": "120"})
        if kind not in ("models", "datasets") or name.partition("/")[0] == "missing":
            return self.answer(404, {"error": "no"}, {"X-Error-Code": "RepoNotFound"})
        siblings = [{"rfilename": ".gitattributes"}, {"rfilename": "config.json"}]
        self.answer(200, {"id": name, "sha": SHA, "siblings": siblings, "gated": "auto"})

    def do_HEAD(self):
        self.note()
        if self.path.startswith("/gated/") and not self.headers.get("Authorization"):
            return self.answer(401, {}, {"X-Error-Code": "GatedRepo"})
        if self.path.startswith("/elsewhere/"):
            location = f"http://localhost:{self.server.server_port}/public/x"
            headers = {"Location": location, "X-Linked-Etag": '"e"', "X-Linked-Size": "2"}
            return self.answer(302, {}, {**headers, "X-Repo-Commit": SHA})
        self.answer(200, {}, {"X-Repo-Commit": SHA, "ETag": '"e"'})

    def note(self):
        if self.path != "/api/agent-harnesses":  # what the library asks for its own statistics
            self.server.seen.append((self.path, self.headers.get("Authorization", "")))

    def answer(self, status, content, headers=()):
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@contextmanager
def serving():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.seen = []
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The server, an empty cache, and short waits between attempts."""
    short = "from pipeline.hub import probe; probe.WAITS = (0.05, 0.05); probe.main()"
    monkeypatch.setattr(needs, "PROBE", needs.PROBE.partition("from ")[0] + short)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield server


@pytest.fixture
def no_hub(hub, monkeypatch):
    """An address where nobody listens."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def need(name, kind="model", **more) -> HubNeed:
    return HubNeed(kind, name, "SOME.KEY", "the thing", "a folder", **more)


def cache(tmp_path: Path, name: str, *files: str, kind="model") -> None:
    repository = tmp_path / "hf" / "hub" / f"{kind}s--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(SHA)
    (repository / "snapshots" / SHA).mkdir(parents=True)
    for file in files:
        (repository / "snapshots" / SHA / file).touch()


# --- the server ----------------------------------------------------------------------------------


def test_what_is_there_is_no_problem(hub):
    assert hub_problems([]) == [] and hub.seen == []
    assert hub_problems([need("public/model"), need("public/data", kind="dataset")]) == []
    paths = sorted(path for path, _ in hub.seen)
    assert paths == [
        "/api/datasets/public/data",
        "/api/models/public/model",
        "/datasets/public/data/resolve/main/config.json",
        "/public/model/resolve/main/config.json",
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing/model", "is not on the Hub (http"),
        ("gated/model", "is gated, and no HF_TOKEN is set; ask for access at http"),
        ("broken/model", "the Hub answers 501"),
        ("a/b/c", "is no name of a model on the Hub, expected OWNER/NAME"),
    ],
)
def test_what_the_server_refuses_is_one_line(hub, name, words):
    [problem] = hub_problems([need(name)])
    assert problem.startswith(f"SOME.KEY: {name} is needed from the Hub as the thing: ")
    assert words in problem and "and it is not in the cache (" in problem
    assert problem.endswith("; expected a folder") and "\n" not in problem


@pytest.mark.slow
def test_the_token_opens_a_gated_repository_and_goes_nowhere_else(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert hub_problems([need("gated/model"), need("elsewhere/model")]) == []
    assert {token for _, token in hub.seen} == {f"Bearer {TOKEN}"}
    assert "/public/x" not in [path for path, _ in hub.seen]  # the other server

    monkeypatch.setenv("HF_TOKEN", "hf_wrong0123456789ABCDEF")
    [problem] = hub_problems([need("gated/model")])
    assert "the Hub does not accept the token of HF_TOKEN" in problem
    assert "hf_wrong" not in problem


@pytest.mark.slow
def test_a_slow_server_is_waited_for_as_long_as_the_library_waits(hub, monkeypatch):
    assert hub_problems([need("slow/model")]) == []
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "1")
    begin = time.monotonic()
    [problem] = hub_problems([need("slow/model")])
    assert "it does not answer in time" in problem
    assert time.monotonic() - begin < 20


def test_a_busy_server_is_asked_again(hub):
    assert hub_problems([need("busy/model")]) == []
    assert len([path for path, _ in hub.seen if path.startswith("/api/")]) == 2


def test_a_server_that_asks_for_a_long_wait_is_named_at_once(hub):
    begin = time.monotonic()
    [problem] = hub_problems([need("later/model")] * 2)
    assert "it answers 429" in problem and time.monotonic() - begin < 20


# --- without it ----------------------------------------------------------------------------------


FILES = (("config.json",), ("*.safetensors", "*.bin"))


@pytest.mark.parametrize("offline", [False, True])
def test_a_cache_stands_in_for_a_hub_that_cannot_be_reached(no_hub, tmp_path, monkeypatch, offline):
    if offline:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cache(tmp_path, "in/cache", "config.json", "model.safetensors")
    cache(tmp_path, "in/part", "config.json")
    names = ("in/cache", "in/part", "not/there")
    problems = hub_problems([need(name, files=FILES) for name in names])
    why = "HF_HUB_OFFLINE is set" if offline else "could not be fetched from the Hub (http://127."
    assert [problem.split()[1] for problem in problems] == ["in/part", "not/there"]
    assert all(why in problem.partition("as the thing: ")[2] for problem in problems)
    assert all(f"not in the cache ({tmp_path / 'hf' / 'hub'})" in problem for problem in problems)


def test_a_dataset_counts_as_cached_with_the_subsets_that_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(probe.constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))

    def is_cached(name, *subsets):
        return probe.is_cached(asdict(need(name, kind="dataset", subsets=subsets)))

    cache(tmp_path, "other/data", "x.parquet", kind="dataset")
    assert is_cached("other/data") and not is_cached("other/data", "rte")
    cache(tmp_path, "third/data", kind="dataset")
    rte = tmp_path / "hf" / "hub" / "datasets--third--data" / "snapshots" / SHA / "rte"
    rte.mkdir()
    (rte / "train.parquet").touch()
    assert is_cached("third/data", "rte")


# --- the plan ------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("A small text. With two sentences.\n")
    config = get_default_config()
    config.SYSTEM.OUTPUT_ROOT, config.SYSTEM.NUM_GPUS = str(tmp_path / "root"), 0
    config.DATASET.CUSTOMIZED_DATASETS = [str(tmp_path / "text")]
    config.TOKENIZER.TRAIN = True
    config.FINETUNE.GLUE_DIR = "builtin:demo"
    return config


@pytest.mark.slow
def test_a_run_that_will_need_the_hub_is_refused_before_it_begins(no_hub, config, tmp_path):
    plan_steps(config, DRY)  # needs nothing
    config.TOKENIZER.TRAIN, config.FINETUNE.GLUE_DIR = False, ""
    config.DATASET.HUGGINGFACE_DATASETS = [["wikipedia", "20220301.en"]]
    for dry_run in (True, False):
        with pytest.raises(ConfigError) as caught:
            run_pipeline(config, DRY, dry_run=dry_run)
        assert [problem.partition(" is needed")[0] for problem in caught.value.problems] == [
            "TOKENIZER.NAME_OR_PATH: bert-large-uncased",
            "DATASET.HUGGINGFACE_DATASETS: wikimedia/wikipedia",
            "FINETUNE.GLUE_DIR: nyu-mll/glue",
        ]
    assert not (tmp_path / "root").exists()
    config.FINETUNE.MODEL_NAME_OR_PATH = "some/model"
    with pytest.raises(ConfigError, match=r"^FINETUNE.MODEL_NAME_OR_PATH: some/model is needed"):
        plan_steps(config, ("finetune",))


def test_a_resumed_run_does_not_need_what_it_has_loaded(no_hub, config):
    config.TOKENIZER.TRAIN = False
    config.DATASET.HUGGINGFACE_DATASETS = [["public/data", "default"]]
    artifact = dataset_artifact(config)
    assert [need.name for need in dataset_estimate(config).hub] == [
        "bert-large-uncased",
        "public/data",
    ]
    artifact.begin()
    shards = {"fingerprint": artifact.fingerprint, "shards": [], "counts": {}, "notes": []}
    write_sealed(artifact.parts[0] / "shards.json", shards)
    assert [need.name for need in dataset_estimate(config).hub] == ["bert-large-uncased"]
    (artifact.directory / "tokenizer").mkdir()
    write_record(artifact.directory / "tokenizer", artifact.fingerprint)
    plan_steps(config, ("dataset",))


def test_the_plan_names_what_is_loaded_from_the_hub(hub, config, capsys):
    config.FINETUNE.GLUE_DIR, config.FINETUNE.TASKS = "", ["MNLI", "CoLA"]
    config.FINETUNE.STILT_TASKS = []
    config.DATASET.HUGGINGFACE_DATASETS = [["public/data", "default"]]
    run_pipeline(config, DRY, dry_run=True)
    output = capsys.readouterr().out
    for line in (
        "dataset public/data as text (DATASET.HUGGINGFACE_DATASETS)",
        "dataset nyu-mll/glue as the data of CoLA, MNLI (FINETUNE.GLUE_DIR)",
    ):
        assert f"  from the Hub, where it can be loaded: {line}\n" in output
    assert "TOKENIZER" not in output


def test_the_plan_lists_every_source(hub, config, tmp_path, capsys):
    config.DATASET.HUGGINGFACE_DATASETS = [["wikipedia", "20220301.en"], ["public/x", "y", "test"]]
    config.DATASET.CUSTOMIZED_DATASETS += ["builtin:python-docs"]
    run_pipeline(config, ("dataset",), dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in lines if "source:" in line] == [
        "source: wikimedia/wikipedia, 20231101.en, train, from the Hub, the present home of "
        "[wikipedia, 20220301.en]",
        "source: public/x, y, test, from the Hub",
        f"source: {tmp_path / 'text'}, 0.0 MB in 1 file",
        "source: builtin:python-docs, the documentation that comes with Python",
    ]
    many = [tmp_path / "many" / str(number) for number in range(50)]
    for folder in many:
        folder.mkdir(parents=True)
        (folder / "a.txt").write_text(f"Text {folder.name}.\n")
    config.DATASET.CUSTOMIZED_DATASETS = list(map(str, many))
    config.DATASET.HUGGINGFACE_DATASETS = []
    run_pipeline(config, ("dataset",), dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    assert sum("source:" in line for line in lines) == 30
    assert "  and 20 more sources" in lines
