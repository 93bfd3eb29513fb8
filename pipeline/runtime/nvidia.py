"""The NVIDIA driver and cards, as the system lists them.

Standard library only: the installation needs it before torch. devices.py checks which of the cards
torch can use.
"""

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pipeline.runtime.processes import answer, text_of

# Without its persistence daemon, the driver takes seconds to start each card.
SMI_SECONDS = 60.0
FIELDS = ("driver_version", "name", "compute_cap")
WSL = "usr/lib/wsl/lib"  # libcuda and nvidia-smi of WSL2, on PATH or not
# libcuda in a container on WSL2. Source: nvidia-container-toolkit, pkg/nvcdi/driver-wsl.go.
WSL_IN_CONTAINER = "usr/lib/wsl/drivers/nv*/libcuda.so.1.1"
# The oldest driver for each major CUDA version, without cuda-compat. Source: "Minimum Required
# Driver Version for CUDA Minor Version Compatibility", CUDA Toolkit Release Notes.
FIRST_DRIVER = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}


@dataclass(frozen=True)
class Card:
    """A GPU listed by the system. capability: as (8, 6), None if unknown."""

    name: str
    capability: tuple[int, int] | None = None

    def __str__(self) -> str:
        """Returns `Tesla V100 (compute capability 7.0)`."""
        if not self.capability:
            return self.name
        return "{} (compute capability {}.{})".format(self.name, *self.capability)


@dataclass(frozen=True)
class System:
    """driver: its version, e.g. `535.129.03`, empty if there is none. problem: why the cards are
    unusable according to nvidia-smi or /dev, empty if they report none."""

    driver: str = ""
    cards: tuple[Card, ...] = ()
    problem: str = ""


def listed(cards: Iterable[Card]) -> str:
    """Returns the cards in words, like `2 x Tesla V100 (compute capability 7.0)`."""
    return ", ".join(f"{n} x {card}" if n > 1 else str(card) for card, n in Counter(cards).items())


def read_system(root: Path = Path("/")) -> System:
    """Returns the driver and the cards of this machine or container.

    Asks nvidia-smi, and reads /proc and /dev if it fails or hangs. A card without a device in /dev
    belongs to another container. root: replaces `/` in tests.
    """
    driver, cards, problem = _ask_smi(root)
    if not cards:
        cards = _listed_cards(root)
        if cards and not (problem or _devices(root) or _is_wsl(root)):
            problem = "/dev has no device of it; was the container started without its GPUs?"
    return System(_loaded_driver(root) or driver, cards, problem)


def lists_cards(root: Path = Path("/")) -> bool:
    """True if /proc or /dev list a card; cheap, does not run nvidia-smi."""
    return bool(_listed_cards(root))


def is_on_pci_bus(root: Path = Path("/")) -> bool:
    """True if the PCI bus has an NVIDIA GPU, with or without a driver."""
    devices = (root / "sys/bus/pci/devices").glob("*")
    return any(
        text_of(device / "vendor").strip() == "0x10de"
        and text_of(device / "class").startswith("0x03")
        for device in devices
    )


def has_kernels(capability: tuple[int, int], architectures: Iterable[str]) -> bool:
    """True if a build with these architectures runs on a card of this compute capability.

    architectures: as `torch.cuda.get_arch_list()` returns. `sm_86` runs on 8.6 and later cards of
    the same major version, `compute_86` (PTX) on all later ones, `sm_90a` on 9.0 only. Source:
    "Application Compatibility", CUDA C++ Programming Guide.
    """
    for name in architectures:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name)
        if not found:
            continue
        kind, built = found[1], (int(found[2]), int(found[3]))
        same_major = built[0] == capability[0]
        if found[4] == "a":
            fits = built == capability
        elif kind == "sm" or found[4] == "f":
            fits = same_major and built <= capability
        else:
            fits = built <= capability
        if fits:
            return True
    return False


# --- nvidia-smi --------------------------------------------------------------------------------


def _ask_smi(root: Path) -> tuple[str, tuple[Card, ...], str]:
    """Returns the driver's version, the cards, and the problem of nvidia-smi."""
    path = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{root / WSL}"
    program = shutil.which("nvidia-smi", path=path)
    return _answer_of(program) if program else ("", (), "")


@cache  # waits only once for a program that hangs
def _answer_of(program: str) -> tuple[str, tuple[Card, ...], str]:
    for fields in (FIELDS, FIELDS[:-1]):  # drivers before 510 have no compute_cap
        query = f"--query-gpu={','.join(fields)}"
        try:
            done = answer([program, query, "--format=csv,noheader,nounits"], SMI_SECONDS)
        except subprocess.TimeoutExpired:
            return "", (), f"nvidia-smi gave no answer in {SMI_SECONDS:.0f} s"
        except OSError as error:
            return "", (), f"nvidia-smi cannot be run: {error}"
        if not done.returncode or "compute_cap" not in done.stdout + done.stderr:
            break
    rows = [line.split(", ") for line in done.stdout.splitlines()]
    rows = [row for row in rows if len(row) == len(fields)]
    if rows and not done.returncode:
        return rows[0][0], tuple(map(_card, rows)), ""
    lines = (done.stdout + done.stderr).strip().splitlines() or [f"exit code {done.returncode}"]
    return "", (), f"nvidia-smi: {lines[0].rstrip('.')}"


def _card(row: Sequence[str]) -> Card:
    """Parses a row of FIELDS; nvidia-smi writes [N/A] for an unknown capability."""
    _, name, *more = row
    found = re.fullmatch(r"(\d+)\.(\d+)", more[0]) if more else None
    return Card(name, (int(found[1]), int(found[2])) if found else None)


# --- /proc and /dev ----------------------------------------------------------------------------


def _loaded_driver(root: Path) -> str:
    """Returns the kernel module's version; nvidia-smi's may be a newer one, not loaded yet."""
    found = re.search(
        r"Kernel Module(?: for \S+)?\s+(\d+(?:\.\d+)+)",
        text_of(root / "proc/driver/nvidia/version"),
    )
    return found[1] if found else ""


def _listed_cards(root: Path) -> tuple[Card, ...]:
    """Returns the cards in /proc and /dev, with names at most.

    /proc lists the host's, /dev this container's. Without any device, all of /proc count: CUDA
    creates devices when it starts, or the container was started without its GPUs.
    """
    nodes = _devices(root)
    cards: list[Card] = []
    minors = set()
    for folder in sorted((root / "proc/driver/nvidia/gpus").glob("*")):
        lines = text_of(folder / "information").splitlines()
        facts = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
        minor = facts.get("Device Minor", "")
        if nodes and minor.isdigit() and int(minor) not in nodes:
            continue
        minors.add(int(minor) if minor.isdigit() else len(cards))
        cards.append(Card(facts.get("Model", "unnamed GPU")))
    cards += [Card("unnamed GPU")] * len(nodes - minors)
    if not cards and _is_wsl(root):
        cards.append(Card("GPU of Windows"))
    return tuple(cards)


def _devices(root: Path) -> set[int]:
    """Returns the minor numbers of /dev/nvidia0 and so on."""
    names = [node.name for node in (root / "dev").glob("nvidia*")]
    return {int(found[1]) for name in names if (found := re.fullmatch(r"nvidia(\d+)", name))}


def _is_wsl(root: Path) -> bool:
    """True on WSL2 with an NVIDIA driver in Windows."""
    if not (root / "dev/dxg").exists():
        return False
    return (root / WSL / "libcuda.so.1").exists() or any(root.glob(WSL_IN_CONTAINER))
