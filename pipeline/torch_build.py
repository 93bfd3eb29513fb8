"""The build of torch that fits this machine's driver and cards.

Standard library only.
"""

import platform
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pipeline.environment import PROJECT
from pipeline.nvidia import FIRST_DRIVER, Card, System, has_kernels

DOWNLOADS = "https://download.pytorch.org/whl"


@dataclass(frozen=True)
class Build:
    """A build of torch for Linux.

    version: the newest release of it that this project runs with. cuda: as `torch.version.cuda`.
    kernels: the architectures that it has kernels for, for each `platform.machine()`. index: what
    pip finds it in; empty for PyPI.
    """

    version: str
    cuda: str
    kernels: dict[str, str]
    index: str = ""

    @property
    def label(self) -> str:
        """Local version label of its wheels, e.g. `+cu126`; PyPI allows none."""
        return f"+cu{self.cuda.replace('.', '')}" if self.index else ""

    @property
    def architectures(self) -> list[str]:
        return self.kernels.get(platform.machine(), "").split()

    @property
    def least_driver(self) -> str:
        return FIRST_DRIVER[_numbers(self.cuda)[0]]


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


# --- what keeps a build from using the cards ---------------------------------------------------


def misfit(system: System, cuda: "str | None", architectures: Iterable[str]) -> str:
    """Why a build of torch cannot use all of this machine's cards; empty if nothing is known.

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
    return f"torch for CUDA {cuda} has no kernels for {_in_words(left_out)}" if left_out else ""


def _is_older(driver: str, least: str) -> bool:
    """False where the driver's version is unknown."""
    return bool(driver) and _numbers(driver) < _numbers(least)


def _without_kernels(cards: Iterable[Card], architectures: Iterable[str]) -> list[Card]:
    """Cards that a build has no kernels for; those of unknown capability are not among them."""
    names = list(architectures)
    return [card for card in cards if card.capability and not has_kernels(card.capability, names)]


def _numbers(version: str) -> list[int]:
    """`2.13.0+cu126` as [2, 13, 0]."""
    return [int(part) for part in version.partition("+")[0].split(".") if part.isdigit()]


def _in_words(cards: Iterable[Card]) -> str:
    """`Tesla V100 (compute capability 7.0)`, each kind of card once."""
    kinds = dict.fromkeys((card.name, card.capability) for card in cards)
    return ", ".join(
        f"{name} (compute capability {capability[0]}.{capability[1]})" for name, capability in kinds
    )


# --- which build fits --------------------------------------------------------------------------


def fitting_build(system: System, version: str = "") -> "Build | None":
    """The build that can use the most cards, PyPI's if there are none; None if no card can be used.

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
    """What makes a torch that cannot use this machine's cards one that can: a command if possible.

    A clause for error messages, without a full stop.
    """
    build = fitting_build(system)
    if not build:
        return _no_build_fits(system)
    if build.index:
        version = f"TORCH_VERSION={build.version} " if build.version != BUILDS[0].version else ""
        settings = f"TORCH_INDEX_URL={build.index} {version}"
    else:
        settings = "EXTREMEBERT_REINSTALL=1 "
    return f"`{settings}bash {PROJECT / 'install.sh'}` installs a torch that can use them"


def _no_build_fits(system: System) -> str:
    """What helps where `fitting_build` finds none."""
    drivers = [
        build.least_driver
        for build in BUILDS
        if len(_without_kernels(system.cards, build.architectures)) < len(system.cards)
    ]
    if drivers:
        return f"update the driver to {min(drivers, key=_numbers)} or newer"
    return "no build of torch from 2.11 on has kernels for them"
