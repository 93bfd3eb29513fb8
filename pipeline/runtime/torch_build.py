"""Selects and installs the build of torch for this machine's driver and cards.

Standard library only. As a program (`python -m pipeline.runtime.torch_build`, run by install.sh in
.venv) it installs that build, or the one of TORCH_INDEX_URL and TORCH_VERSION, without its
dependencies.
"""

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pipeline.environment import (
    PROJECT,
    TORCH_VARIABLES,
    asked_torch,
    installation,
    without_secrets,
)
from pipeline.runtime.nvidia import (
    FIRST_DRIVER,
    Card,
    System,
    has_kernels,
    listed,
    read_system,
)

DOWNLOADS = "https://download.pytorch.org/whl"


@dataclass(frozen=True)
class Build:
    """A build of torch for Linux.

    version: its newest supported release. cuda: as `torch.version.cuda`. kernels: the
    architectures of its kernels, by `platform.machine()`. index: its package index, empty for PyPI.
    """

    version: str
    cuda: str
    kernels: dict[str, str]
    index: str = ""

    @property
    def label(self) -> str:
        """The local version label of its wheels, e.g. `+cu126`; PyPI allows none."""
        return f"+cu{self.cuda.replace('.', '')}" if self.index else ""

    @property
    def architectures(self) -> list[str]:
        return self.kernels.get(platform.machine(), "").split()

    @property
    def least_driver(self) -> str:
        return FIRST_DRIVER[_numbers(self.cuda)[0]]

    def misfit(self, system: System) -> str:
        return misfit(system, self.cuda, self.architectures)


# The first is preferred. Sources: PYTORCH_RELEASES_CODE_CC in torch/cuda/__init__.py of torch 2.13;
# for CUDA 12.8, which no release after 2.11 was built for, github.com/pytorch/pytorch/pull/175253
# and /issues/178665. The metadata of PyPI's wheels of 2.11 to 2.13 require CUDA 13.0.
BUILDS = (
    Build(
        "2.13.0",
        "13.0",
        {
            "x86_64": "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120",
            "aarch64": "sm_80 sm_90 sm_100 sm_110 sm_120",
        },
    ),
    Build(
        "2.13.0",
        "12.6",
        {"x86_64": "sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90", "aarch64": "sm_80 sm_90"},
        f"{DOWNLOADS}/cu126",
    ),
    Build(
        "2.11.0",
        "12.8",
        {
            "x86_64": "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120",
            "aarch64": "sm_80 sm_90 sm_100 sm_120",
        },
        f"{DOWNLOADS}/cu128",
    ),
)


# --- builds that cannot use the cards ------------------------------------------------------------


def misfit(system: System, cuda: str | None, architectures: Iterable[str]) -> str:
    """Returns why a build of torch cannot use all of this machine's cards, "" if it can.

    cuda: as `torch.version.cuda`; architectures: as `torch.cuda.get_arch_list()`.
    """
    if not system.cards:
        return ""
    if not cuda:
        return "this torch is built without CUDA"
    least = FIRST_DRIVER.get(_numbers(cuda)[0], "")
    if _is_older(system.driver, least):
        return f"driver {system.driver} is too old for CUDA {cuda}, which needs {least} or newer"
    left_out = _without_kernels(system.cards, architectures)
    return f"torch for CUDA {cuda} has no kernels for {listed(left_out)}" if left_out else ""


def _is_older(driver: str, least: str) -> bool:
    return bool(driver) and _numbers(driver) < _numbers(least)  # "": an unknown version


def _without_kernels(cards: Iterable[Card], architectures: Iterable[str]) -> list[Card]:
    """Returns the cards without kernels in a build, except those of unknown capability."""
    names = list(architectures)
    return [card for card in cards if card.capability and not has_kernels(card.capability, names)]


def _numbers(version: str) -> list[int]:
    """Parses `2.13.0+cu126` as [2, 13, 0]."""
    return [int(part) for part in version.partition("+")[0].split(".") if part.isdigit()]


# --- choosing a build ----------------------------------------------------------------------------


def fitting_build(system: System, version: str = "") -> Build | None:
    """Returns the build for the most cards, PyPI's without cards; None if no card is usable.

    version: a release of torch, instead of each build's newest.
    """
    builds = [
        replace(build, version=version or build.version)
        for build in BUILDS
        if _numbers(version) <= _numbers(build.version)
    ]

    def usable(build: Build) -> int:
        if _is_older(system.driver, build.least_driver):
            return 0
        return len(system.cards) - len(_without_kernels(system.cards, build.architectures))

    best = max(builds, key=usable, default=None)
    return best if best and (usable(best) or not system.cards) else None


def way_out(system: System) -> str:
    """Returns the remedy for a torch that cannot use these cards, as a clause.

    An install command or a driver update; "" if neither helps.
    """
    build = fitting_build(system)
    if not build:
        return _driver_update(system)
    if build.misfit(system):
        return ""
    if build.index:
        version = f"TORCH_VERSION={build.version} " if build.version != BUILDS[0].version else ""
        settings = f"TORCH_INDEX_URL={build.index} {version}"
    else:
        settings = "EXTREMEBERT_REINSTALL=1 "
    command = f"{settings}bash {PROJECT / 'install.sh'}"
    return f"run `{command}` for a torch that can use all of them"


def why_no_way_out(system: System) -> str:
    """Returns the reason for an empty `way_out`."""
    if fitting_build(system):
        return "no build of torch can use all of them"
    return f"no build of torch from 2.11 on has kernels for {listed(system.cards)}"


def _driver_update(system: System) -> str:
    """Returns the driver update for a build with kernels for some of the cards, or ""."""
    drivers = [
        build.least_driver
        for build in BUILDS
        if len(_without_kernels(system.cards, build.architectures)) < len(system.cards)
    ]
    if drivers:
        return f"update driver {system.driver} to {min(drivers, key=_numbers)} or newer"
    return ""


# --- installing it -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wheel:
    """A torch for pip. version: e.g. `2.13.0+cu126`. index: empty for pip's default one. reason:
    why it is not PyPI's, or what PyPI's cannot do."""

    version: str
    index: str = ""
    reason: str = ""

    def in_words(self) -> str:
        source = f" from {without_secrets(self.index)}" if self.index else ""
        return f"torch {self.version}{source}{self.reason and f', {self.reason}'}"


def chosen_wheel(system: System, version: str = "", index: str = "") -> Wheel:
    """Returns the fitting wheel, or that of TORCH_VERSION (version) and TORCH_INDEX_URL (index)."""
    if index:
        return Wheel(version or BUILDS[0].version, index, "as TORCH_INDEX_URL asks")
    if "+" in version:
        return Wheel(version, f"{DOWNLOADS}/{version.partition('+')[2]}", "as TORCH_VERSION asks")
    build = fitting_build(system, version)
    if build and build.index:
        reason = f"because {BUILDS[0].misfit(system)}"
        return Wheel(build.version + build.label, build.index, reason)
    if version:
        return Wheel(version, "", "as TORCH_VERSION asks")
    if build:
        return _usual_wheel(system)
    why = _driver_update(system) or why_no_way_out(system)
    return _usual_wheel(system, f", so that only the CPU can be used: {why}")


def _usual_wheel(system: System, consequence: str = "") -> Wheel:
    """Returns PyPI's."""
    problem = BUILDS[0].misfit(system)
    return Wheel(BUILDS[0].version, "", problem and f"although {problem}{consequence}")


def install_torch() -> int:
    """Installs the chosen wheel; returns pip's exit code.

    If a wheel that the user did not ask for is unavailable, installs PyPI's: the CPU can then still
    be used.
    """
    system = read_system()
    asked = {name: os.environ.get(name, "") for name in TORCH_VARIABLES}
    wheel = chosen_wheel(system, asked["TORCH_VERSION"], asked["TORCH_INDEX_URL"])
    code = _pip_install(wheel, system)
    if not code or not wheel.index or any(asked.values()):
        return code
    print("it cannot be downloaded (TORCH_INDEX_URL can name a mirror), so the usual one is taken")
    return _pip_install(_usual_wheel(system), system)


def _pip_install(wheel: Wheel, system: System) -> int:
    """Passes the index in the environment: command lines are public."""
    print(f"installing {wheel.in_words()}", flush=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--progress-bar", "off", "--no-input", "--no-deps", f"torch=={wheel.version}"]
    if _is_another(wheel, system):
        command.append("--force-reinstall")
    index = {"PIP_INDEX_URL": wheel.index} if wheel.index else {}
    return subprocess.run(command, env={**os.environ, **index}).returncode


def _is_another(wheel: Wheel, system: System) -> bool:
    """True if .venv has another build of the same release; pip would keep it.

    PyPI's build replaces a labelled one only on machines with cards.
    """
    try:
        installed = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return False
    if wheel.index:
        return "+" not in wheel.version and installation().get("asked") != asked_torch()
    return bool(system.cards) and "+" in installed


if __name__ == "__main__":
    sys.exit(install_torch())
