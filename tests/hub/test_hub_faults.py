"""What the Hub refuses, and what breaks on the way: mended, or one line with the way out."""

import time

import pytest

from tests.hub.asked import KEY, TIMEOUT, commit_of, model, read, tokenizer
from tests.hub.repositories import write_parquet
from tests.hub_server import Fault

pytestmark = pytest.mark.slow

WIKIPEDIA = "wikimedia/wikipedia"
SUBSET = "20231101.frr"
TOKEN, OTHER_TOKEN = "hf_planted0123456789", "hf_planted9876543210"
SHORT = (0.1, 0.1)
LARGE = 11 << 20  # the library keeps what has arrived in pieces of 10 MiB


# --- access ----------------------------------------------------------------------------------


def asked_for(kind, name, tmp_path):
    """(function, arguments, key) to ask for a repository of a kind."""
    if kind == "dataset":
        return (read, tmp_path, name, SUBSET), KEY
    if kind == "streamed dataset":
        return (read, tmp_path, name, SUBSET, "", "text", True), KEY
    if kind == "tokenizer":
        return (tokenizer, name, tmp_path / "tokenizer"), "TOKENIZER.NAME_OR_PATH"
    return (model, name), "FINETUNE.MODEL_NAME_OR_PATH"


@pytest.mark.parametrize("kind", ["dataset", "streamed dataset", "tokenizer", "checkpoint"])
def test_gated(hub, online, tmp_path, new_repository, kind):
    is_dataset = "dataset" in kind
    like = WIKIPEDIA if is_dataset else "bert-large-uncased"
    name, _ = new_repository("datasets" if is_dataset else "models", like)
    hub.gated[name] = {TOKEN}
    asked, key = asked_for(kind, name, tmp_path)
    page = f"{hub.address}/{'datasets/' if is_dataset else ''}{name}"
    what = f"{key}: {'dataset' if is_dataset else 'model'} {name} is gated"

    refused = online.ask(*asked)
    assert refused.problem == (
        f"{what}, and no HF_TOKEN is set; ask for access at {page} and set HF_TOKEN to a token of "
        "that account"
    )
    refused = online.ask(*asked, token=OTHER_TOKEN)
    assert refused.problem == (
        f"{what}, and the account of HF_TOKEN has no access; ask for access at {page} and set "
        "HF_TOKEN to a token of that account"
    )
    admitted = online.ask(*asked, token=TOKEN)
    assert admitted.problem == "" and admitted.result
    for answer in (refused, admitted):
        assert "planted" not in answer.printed + answer.problem
    assert {request.token for request in hub.requests} == {"", OTHER_TOKEN, TOKEN}


def test_a_token_that_is_refused(hub, online, tmp_path):
    hub.refused = {TOKEN}
    answer = online.ask(read, tmp_path, WIKIPEDIA, SUBSET, token=TOKEN)
    assert answer.problem == (
        f"{KEY}: {hub.address}/datasets/{WIKIPEDIA}: the Hub does not accept the token of "
        "HF_TOKEN; renew it, or unset it"
    )


@pytest.mark.parametrize("token", ["", TOKEN])
@pytest.mark.parametrize("kind", ["dataset", "streamed dataset", "tokenizer", "checkpoint"])
def test_not_there(hub, online, tmp_path, kind, token):
    asked, key = asked_for(kind, "nobody/nothing", tmp_path)
    answer = online.ask(*asked, token=token)
    what = "dataset" if "dataset" in kind else "model"
    assert answer.problem.startswith(f"{key}: {what} nobody/nothing is not on the Hub (")
    assert ("no HF_TOKEN is set" in answer.problem) == (not token)
    assert "\n" not in answer.problem and answer.printed == ""


@pytest.mark.parametrize("kind", ["dataset", "tokenizer"])
def test_no_name_of_the_hub(online, tmp_path, kind):
    asked, key = asked_for(kind, "a--b/c", tmp_path)
    assert online.ask(*asked).problem.startswith(f"{key}: a--b/c is no name of a ")


# --- a Hub that is busy or slow --------------------------------------------------------------


API = r"GET /api/datasets/[^/]+/[^/]+ $"


@pytest.mark.parametrize(
    "streaming, fault",
    [
        (False, Fault(API, 2, status=503)),
        (False, Fault(API, 1, status=429, headers={"Retry-After": "1"})),
        (False, Fault(API, 1, seconds=TIMEOUT + 1)),
        (False, Fault("/tree/", 1, status=500)),
        (False, Fault("/tree/", 1, seconds=TIMEOUT + 1)),  # the library would wait without end
        (False, Fault(r"HEAD .*\.parquet", 1, status=502)),
        (False, Fault(r"GET .*\.parquet $", 1, status=503)),
        (False, Fault(r"GET .*\.parquet $", 1, seconds=TIMEOUT + 1)),
        (True, Fault(r"GET .*\.parquet bytes", 1, status=503)),
        (True, Fault(r"GET .*\.parquet bytes", 1, seconds=TIMEOUT + 1)),
    ],
    ids=str,
)
def test_a_fault_that_passes(hub, online, tmp_path, new_repository, fault, streaming):
    name, _ = new_repository("datasets", WIKIPEDIA)
    expected = online.ask(read, tmp_path, WIKIPEDIA, SUBSET).result[0]
    hub.faults = [Fault(**vars(fault))]
    answer = online.ask(read, tmp_path, name, SUBSET, "", "text", streaming)
    assert answer.problem == "" and answer.result[0] == expected
    assert hub.faults[0].times == 0
    if "HEAD" not in fault.pattern:  # which is asked again at once
        assert "the Hub: " in answer.printed


@pytest.mark.parametrize(
    "fault, reason",
    [
        (Fault("", status=503), "it answers 503 Service Unavailable"),
        (Fault("", status=429, headers={"Retry-After": "100000"}), "it answers 429 Too Many"),
        (Fault("", seconds=TIMEOUT + 1), "it does not answer in time"),
        (Fault("", cut=0), "the connection broke off"),
    ],
    ids=["503", "429", "slow", "cut"],
)
def test_a_fault_that_lasts(hub, online, new_repository, fault, reason):
    name, _ = new_repository("datasets", WIKIPEDIA)
    hub.faults = [Fault(**vars(fault))]
    begin = time.monotonic()
    answer = online.ask(commit_of, name, "dataset", waits=SHORT)
    assert time.monotonic() - begin < 5 * (TIMEOUT + 1)
    assert answer.problem.startswith(
        f"dataset {name} could not be fetched from the Hub ({hub.address}): {reason}"
    )
    assert "\n" not in answer.problem
    attempts = 1 if fault.status == 429 else len(SHORT) + 1
    assert answer.printed.count("another attempt in") == attempts - 1
    assert len(hub.requests) <= attempts + 1


# --- connections that break ------------------------------------------------------------------


@pytest.fixture
def large(new_repository):
    """(name, articles) of a dataset with one large file."""
    name, folder = new_repository("datasets")
    articles = [chr(97 + number) * (LARGE // 11) for number in range(11)]
    path = folder / "data" / "train-00000-of-00001.parquet"
    write_parquet(path, {"text": articles}, compression="none")
    assert path.stat().st_size > LARGE
    return name, articles


def test_a_download_that_breaks_off_is_resumed(hub, online, tmp_path, large):
    name, articles = large
    hub.faults = [Fault(r"GET .*\.parquet $", 1, cut=LARGE - 1000)]
    answer = online.ask(read, tmp_path, name)
    assert answer.problem == "" and answer.result[0] == articles
    assert f"bytes={10 << 20}-" in [request.range for request in hub.requests]


@pytest.mark.parametrize("streaming, reset", [(False, True), (True, False), (True, True)])
def test_every_request_breaks_off_once(hub, online, tmp_path, large, streaming, reset):
    name, articles = large
    hub.faults = [Fault(r"GET .*\.parquet", 2, cut=50_000, reset=reset)]
    answer = online.ask(read, tmp_path, name, "", "", "text", streaming)
    assert answer.problem == "" and answer.result[0] == articles


def test_downloads_that_always_break_off(hub, online, tmp_path, new_repository):
    name, _ = new_repository("datasets", WIKIPEDIA)
    hub.faults = [Fault(r"GET .*\.parquet $", cut=100)]
    answer = online.ask(read, tmp_path, name, SUBSET, waits=SHORT[:1])
    assert f"dataset {name} could not be fetched from the Hub" in answer.problem
    assert "the connection broke off" in answer.problem and "\n" not in answer.problem


@pytest.mark.slow
def test_a_stream_that_ends_in_a_refusal(hub, online, tmp_path, new_repository):
    name, _ = new_repository("datasets", WIKIPEDIA)
    hub.faults = [Fault(r"GET .*\.parquet bytes", status=403)]
    answer = online.ask(read, tmp_path, name, SUBSET, "", "text", True)
    assert answer.problem.startswith(
        f"{KEY}: {hub.address}/datasets/{name}: the Hub answers 403 Forbidden: "
    )


def test_no_hub_at_all(online, offline, tmp_path):
    from tests.hub.asked import Child

    child = Child("http://127.0.0.1:9", tmp_path / "home")
    try:
        answer = child.ask(commit_of, WIKIPEDIA, "dataset", waits=SHORT)
        assert answer.problem.startswith(
            f"dataset {WIKIPEDIA} could not be fetched from the Hub (http://127.0.0.1:9): "
            "it cannot be reached ("
        )
    finally:
        child.end()
    answer = offline.ask(read, tmp_path, "never/fetched")
    assert answer.problem.startswith(f"{KEY}: dataset never/fetched is not, or not as a whole, in")
