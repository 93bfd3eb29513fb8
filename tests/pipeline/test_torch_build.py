"""Faked machines, and the build of torch that each of them gets."""

import platform

import pytest

from pipeline import torch_build
from pipeline.environment import PROJECT, pinned_requirements
from pipeline.nvidia import Card, System
from pipeline.torch_build import BUILDS, fitting_build, misfit, way_out


def machine(driver: str, *capabilities: tuple[int, int] | None) -> System:
    names = {(8, 0): "NVIDIA A100-SXM4-80GB", (7, 0): "Tesla V100-SXM2-16GB", (3, 7): "Tesla K80"}
    cards = [Card(i, names.get(cc, f"GPU {cc}"), "", cc) for i, cc in enumerate(capabilities)]
    return System(driver, tuple(cards))


PYPI, CUDA_126, CUDA_128 = BUILDS
INDEX_126 = f"TORCH_INDEX_URL=https://download.pytorch.org/whl/cu126 bash {PROJECT}/install.sh"
INDEX_128 = INDEX_126.replace("cu126 ", "cu128 TORCH_VERSION=2.11.0 ")
AGAIN = f"EXTREMEBERT_REINSTALL=1 bash {PROJECT}/install.sh"
NEWER_525 = "update the driver to 525.60.13 or newer"
NO_KERNELS = "no build of torch from 2.11 on has kernels for them"

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
    "K80, 470": (machine("470.82.01", (3, 7)), None, NO_KERNELS),
    "a card of Windows (WSL2)": (machine("572.16", (8, 9)), CUDA_126, INDEX_126),
    "an unknown driver": (machine("", (8, 0)), PYPI, AGAIN),
    "nothing known of a card": (machine("", None), PYPI, AGAIN),
    "RTX 4090 and GTX 1080": (machine("580.65.06", (8, 9), (6, 1)), CUDA_126, INDEX_126),
    "two RTX 5090 and a V100": (machine("580.65.06", (7, 0), (12, 0), (12, 0)), PYPI, AGAIN),
}


@pytest.fixture(autouse=True)
def usual_machine(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


@pytest.mark.parametrize("name", MACHINES)
def test_each_machine_gets_a_build_that_runs_there(name):
    system, build, out = MACHINES[name]
    assert fitting_build(system) == build
    command = f"`{out}` installs a torch that can use them" if "bash" in out else out
    assert way_out(system) == command
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
            "torch for CUDA 13.0 has no kernels for Tesla V100-SXM2-16GB (compute capability 7.0)",
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
    assert fitting_build(graviton) is None and way_out(graviton) == NO_KERNELS


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
        system = System("580.65.06", (Card(0, "a card", "", divmod(number, 10)),))
        for build in (PYPI, CUDA_126):
            codes = torch.cuda.PYTORCH_RELEASES_CODE_CC[build.cuda]["x86_64"]
            runs = any(torch.cuda._code_compatible_with_device(number, code) for code in codes)
            assert (misfit(system, build.cuda, build.architectures) == "") is runs, number


def test_the_labels_are_those_of_the_indexes():
    assert [build.label for build in BUILDS] == ["", "+cu126", "+cu128"]
    for build in BUILDS[1:]:
        assert build.index == f"{torch_build.DOWNLOADS}/{build.label[1:]}"
