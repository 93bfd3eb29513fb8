"""Faked machines, and the build of torch that each of them gets."""

import base64
import http.server
import platform
import threading
import zipfile
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from pipeline import environment
from pipeline.environment import PROJECT, pinned_requirements
from pipeline.runtime import torch_build
from pipeline.runtime.nvidia import Card, System
from pipeline.runtime.torch_build import (
    BUILDS,
    Wheel,
    chosen_wheel,
    fitting_build,
    misfit,
    way_out,
    why_no_way_out,
)


def machine(driver: str, *capabilities: tuple[int, int] | None) -> System:
    names = {
        (8, 0): "NVIDIA A100-SXM4-80GB",
        (7, 0): "Tesla V100-SXM2-16GB",
        (3, 7): "Tesla K80",
        (7, 5): "NVIDIA T4G",
    }
    cards = [Card(names.get(cc, f"GPU {cc}"), cc) for cc in capabilities]
    return System(driver, tuple(cards))


PYPI, CUDA_126, CUDA_128 = BUILDS
INDEX_126 = f"TORCH_INDEX_URL=https://download.pytorch.org/whl/cu126 bash {PROJECT}/install.sh"
INDEX_128 = INDEX_126.replace("cu126 ", "cu128 TORCH_VERSION=2.11.0 ")
AGAIN = f"EXTREMEBERT_REINSTALL=1 bash {PROJECT}/install.sh"
NEWER_525 = "update driver 470.82.01 to 525.60.13 or newer"
CHOOSE = "no build of torch can use all of them"
NO_KERNELS = "no build of torch from 2.11 on has kernels for {} (compute capability {})"

# The machine, its build, and the way out of a torch that cannot use its cards.
MACHINES = {
    "no card": (machine(""), PYPI, AGAIN),
    "a driver without cards": (machine("470.82.01"), PYPI, AGAIN),
    "RTX 4090, 580": (machine("580.65.06", (8, 9)), PYPI, AGAIN),
    "RTX 4090, just below": (machine("580.65.05", (8, 9)), CUDA_126, INDEX_126),
    "A100, 535": (machine("535.129.03", (8, 0)), CUDA_126, INDEX_126),
    "A100, 525": (machine("525.60.13", (8, 0)), CUDA_126, INDEX_126),
    "A100, 470": (machine("470.82.01", (8, 0)), None, NEWER_525),
    "an old nvidia-smi": (machine("470.82.01", None), None, NEWER_525),
    "V100, 550": (machine("550.54.15", (7, 0)), CUDA_126, INDEX_126),
    "V100, 580": (machine("580.65.06", (7, 0)), CUDA_126, INDEX_126),
    "GTX 1080, 580": (machine("580.65.06", (6, 1)), CUDA_126, INDEX_126),
    "RTX 5090, 570": (machine("570.133.07", (12, 0)), CUDA_128, INDEX_128),
    "RTX 5090, 590": (machine("590.44.01", (12, 0)), PYPI, AGAIN),
    "K80, 470": (machine("470.82.01", (3, 7)), None, NO_KERNELS.format("Tesla K80", 3.7)),
    "a card of Windows (WSL2)": (machine("572.16", (8, 9)), CUDA_126, INDEX_126),
    "an unknown driver": (machine("", (8, 0)), PYPI, AGAIN),
    "nothing known of a card": (machine("", None), PYPI, AGAIN),
    "RTX 4090 and GTX 1080": (machine("580.65.06", (8, 9), (6, 1)), CUDA_126, INDEX_126),
    "two RTX 5090 and a V100": (machine("580.65.06", (7, 0), (12, 0), (12, 0)), PYPI, CHOOSE),
}


@pytest.fixture(autouse=True)
def usual_machine(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


@pytest.mark.parametrize("name", MACHINES)
def test_each_machine_gets_a_build_that_runs_there(name):
    system, build, out = MACHINES[name]
    assert fitting_build(system) == build
    command = f"run `{out}` for a torch that can use all of them" if "bash" in out else out
    assert (way_out(system) or why_no_way_out(system)) == command
    if build and not name.startswith("two"):
        assert misfit(system, build.cuda, build.architectures) == ""


@pytest.mark.parametrize(
    ("system", "cuda", "expected"),
    [
        (
            machine("535.129.03", (8, 0)),
            "13.0",
            "driver 535.129.03 is too old for CUDA 13.0, which needs 580.65.06 or newer",
        ),
        (
            machine("580.65.06", (7, 0), (8, 0), (7, 0)),
            "13.0",
            "torch for CUDA 13.0 has no kernels for 2 x Tesla V100-SXM2-16GB "
            "(compute capability 7.0)",
        ),
        (machine("580.65.06", (8, 0)), None, "this torch is built without CUDA"),
        (machine("580.65.06"), None, ""),
        (machine("", None), "13.0", ""),
    ],
)
def test_a_torch_that_cannot_use_the_cards_is_known_by_its_cuda_and_kernels(system, cuda, expected):
    assert misfit(system, cuda, PYPI.architectures) == expected


def test_arm_servers_have_builds_of_their_own(monkeypatch):
    grace_hopper, graviton = machine("535.129.03", (9, 0)), machine("535.129.03", (7, 5))
    assert fitting_build(graviton) == CUDA_126
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert fitting_build(grace_hopper) == CUDA_126
    assert fitting_build(graviton) is None and way_out(graviton) == ""
    assert why_no_way_out(graviton) == NO_KERNELS.format("NVIDIA T4G", 7.5)


def test_a_release_is_taken_from_a_build_that_has_it():
    blackwell = machine("570.133.07", (12, 0))
    assert fitting_build(blackwell, "2.11.0") == CUDA_128
    assert fitting_build(blackwell, "2.12.1") is None  # not built for CUDA 12.8
    found = fitting_build(machine("535.129.03", (8, 0)), "2.12.1")
    assert (found.version, found.label, found.index) == ("2.12.1", "+cu126", CUDA_126.index)


def test_the_table_is_that_of_the_pinned_torch():
    """With a newer pin the table must be looked at again."""
    torch = pytest.importorskip("torch")
    pinned = pinned_requirements()["torch"]
    assert pinned == PYPI.version == CUDA_126.version
    if torch.__version__.partition("+")[0] != pinned:
        pytest.skip("another torch is installed")
    for build in (PYPI, CUDA_126):
        known = torch.cuda.PYTORCH_RELEASES_CODE_CC[build.cuda]
        for name, architectures in build.kernels.items():
            assert {int(word.removeprefix("sm_")) for word in architectures.split()} == known[name]
    # Of every card but those on boards of their own, as the pinned torch sees it.
    for number in (50, 52, 60, 61, 70, 75, 80, 86, 89, 90, 100, 103, 120, 121):
        system = System("580.65.06", (Card("a card", divmod(number, 10)),))
        for build in (PYPI, CUDA_126):
            codes = torch.cuda.PYTORCH_RELEASES_CODE_CC[build.cuda]["x86_64"]
            runs = any(torch.cuda._code_compatible_with_device(number, code) for code in codes)
            assert (misfit(system, build.cuda, build.architectures) == "") is runs, number


def test_what_one_build_alone_cannot_do_is_said():
    mixed = machine("580.65.06", (7, 0), (12, 0), (12, 0))
    assert chosen_wheel(mixed).in_words() == (
        "torch 2.13.0, although torch for CUDA 13.0 has no kernels for Tesla V100-SXM2-16GB "
        "(compute capability 7.0)"
    )
    assert chosen_wheel(machine("580.65.06", (8, 0))).in_words() == "torch 2.13.0"
    assert chosen_wheel(machine("470.82.01", (8, 0))).reason.endswith(
        f", so that only the CPU can be used: {NEWER_525}"
    )
    blackwell = machine("570.133.07", (12, 0))
    assert chosen_wheel(blackwell, "2.12.1") == Wheel("2.12.1", "", "as TORCH_VERSION asks")
    assert chosen_wheel(blackwell).version == "2.11.0+cu128"
    assert chosen_wheel(machine("535.129.03", (8, 0)), "2.12.1").version == "2.12.1+cu126"


def test_the_labels_are_those_of_the_indexes():
    assert [build.label for build in BUILDS] == ["", "+cu126", "+cu128"]
    for build in BUILDS[1:]:
        assert build.index == f"{torch_build.DOWNLOADS}/{build.label[1:]}"


# --- with pip ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("installed", "wheel", "cards", "replaced"),
    [
        ("2.13.0+cu126", Wheel("2.13.0"), (8, 9), True),
        ("2.13.0+cu126", Wheel("2.13.0"), None, False),  # no cards here: perhaps elsewhere
        ("2.13.0", Wheel("2.13.0"), (8, 9), False),
        ("2.13.0", Wheel("2.13.0+cu126", CUDA_126.index), (8, 9), False),  # pip sees it
        ("2.13.0", Wheel("2.13.0", "https://wheels.example"), None, True),
        (None, Wheel("2.13.0", "https://wheels.example"), None, False),
    ],
)
def test_a_build_that_pip_takes_for_another_is_replaced(
    tmp_path, monkeypatch, installed, wheel, cards, replaced
):
    calls = []

    def version(name):
        if not installed:
            raise torch_build.importlib.metadata.PackageNotFoundError(name)
        return installed

    def run(command, env):
        calls.append(command)
        return CompletedProcess(command, 0)

    monkeypatch.setattr(environment, "RECORD", tmp_path / "installed.json")
    monkeypatch.setattr(torch_build.importlib.metadata, "version", version)
    monkeypatch.setattr(torch_build.subprocess, "run", run)
    monkeypatch.setenv("TORCH_INDEX_URL", wheel.index)
    system = machine("580.65.06", *([cards] if cards else []))
    monkeypatch.setattr(torch_build, "read_system", lambda: system)
    monkeypatch.setattr(torch_build, "chosen_wheel", lambda *_: wheel)
    torch_build.install_torch()
    assert ("--force-reinstall" in calls[0]) is replaced


USER, PASSWORD = "me", "planted-0123456789"


@pytest.fixture
def private_index(tmp_path):
    """A package index with a torch of 2.13.0, for those who know the password; yields its URL."""
    folder = tmp_path / "served" / "torch"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "torch-2.13.0+cu126-py3-none-any.whl", "w") as wheel:
        info = "torch-2.13.0+cu126.dist-info"
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0+cu126\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    credentials = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path / "served"))

        def do_GET(self):
            if self.headers["Authorization"] == f"Basic {credentials}":
                return super().do_GET()
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Basic")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("password", [PASSWORD, f"wrong-{PASSWORD}"])
def test_pip_shows_no_password_of_an_index(private_index, tmp_path, monkeypatch, capfd, password):
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    settings = {
        "TORCH_INDEX_URL": f"http://{USER}:{password}@{private_index}",
        "NO_PROXY": "127.0.0.1",
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_TARGET": str(tmp_path / "target"),
        "PIP_VERBOSE": "3",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    code = torch_build.install_torch()
    shown = "".join(capfd.readouterr())
    assert PASSWORD not in shown
    assert f"installing torch 2.13.0 from http://{private_index}, as TORCH_INDEX_URL asks" in shown
    installed = list(Path(tmp_path).glob("target/torch-2.13.0+cu126.dist-info"))
    assert (code == 0) is bool(installed) is (password == PASSWORD), shown
