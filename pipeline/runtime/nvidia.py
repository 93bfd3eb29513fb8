"""What the system says about NVIDIA: its driver and its cards.

Standard library only: the installation asks before there is a torch. Whether torch can use the
cards is another question (pipeline.runtime.devices).
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pipeline.runtime.processes import answer

# Without a daemon that keeps it awake, the driver takes seconds to start each card.
SMI_SECONDS = 60.0
FIELDS = ("driver_version", "index", "name", "uuid", "memory.total", "compute_cap")
WSL = "usr/lib/wsl/lib"  # where WSL2 has libcuda and nvidia-smi, on PATH or not
# What a container on WSL2 is given of it, as nvidia-container-toolkit's pkg/nvcdi/driver-wsl.go
# lists it; its nvidia-smi is on PATH.
WSL_IN_CONTAINER = "usr/lib/wsl/drivers/nv*/libcuda.so.1.1"
# The newest CUDA of each driver branch, as the toolkits' release notes pair them ("CUDA Toolkit and
# Corresponding Driver Versions", docs.nvidia.com/cuda/cuda-toolkit-release-notes).
CUDA_OF_BRANCH = {
    450: (11, 0),
    455: (11, 1),
    460: (11, 2),
    465: (11, 3),
    470: (11, 4),
    495: (11, 5),
    510: (11, 6),
    515: (11, 7),
    520: (11, 8),
    525: (12, 0),
    530: (12, 1),
    535: (12, 2),
    545: (12, 3),
    550: (12, 4),
    555: (12, 5),
    560: (12, 6),
    565: (12, 7),
    570: (12, 8),
    575: (12, 9),
    580: (13, 0),
    590: (13, 1),
}
# The first driver that runs programs of a major CUDA version ("Minimum Required Driver Version for
# CUDA Minor Version Compatibility", same notes). With cuda-compat an older one may, too.
FIRST_DRIVER = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}


@dataclass(frozen=True)
class Card:
    """A GPU that the system lists. index: nvidia-smi's, which is the order on the PCI bus.

    uuid: `GPU-...`, or empty. capability: as (8, 6), None if unknown; memory: MiB, None if unknown.
    """

    index: int
    name: str
    uuid: str = ""
    capability: tuple[int, int] | None = None
    memory: int | None = None


@dataclass(frozen=True)
class System:
    """driver: its version, e.g. `535.129.03`, empty if there is none. problem: what keeps
    the cards from being used, as nvidia-smi or /dev tell; empty if they tell of none."""

    driver: str = ""
    cards: tuple[Card, ...] = ()
    problem: str = ""

    @property
    def newest_cuda(self) -> tuple[int, int] | None:
        """The newest CUDA that the driver supports, e.g. (12, 2); None if that is unknown."""
        branch = int(self.driver.partition(".")[0] or 0)
        known = [cuda for first, cuda in CUDA_OF_BRANCH.items() if first <= branch]
        return max(known, default=None)


def read_system(root: Path = Path("/")) -> System:
    """The driver and the cards that this machine, or this container, has been given.

    Asks nvidia-smi of PATH or of WSL2; where it fails or hangs, /proc and /dev tell. A card without
    a device in /dev belongs to another container. root: the folder in place of `/`, for tests.
    """
    driver, cards, problem = _ask_smi(root)
    if not cards:
        cards = _listed_cards(root)
        if cards and not (problem or _devices(root) or _is_wsl(root)):
            problem = "/dev has no device of it; was the container started without its GPUs?"
    return System(_loaded_driver(root) or driver, cards, problem)


def lists_cards(root: Path = Path("/")) -> bool:
    """True if /proc or /dev tell of a card; cheap, as nvidia-smi is not asked."""
    return bool(_listed_cards(root))


def is_on_pci_bus(root: Path = Path("/")) -> bool:
    """True if the PCI bus has a GPU of NVIDIA's, with its driver, another one's or none."""
    devices = (root / "sys/bus/pci/devices").glob("*")
    return any(
        _text(device / "vendor").strip() == "0x10de" and _text(device / "class").startswith("0x03")
        for device in devices
    )


def has_kernels(capability: tuple[int, int], architectures: Iterable[str]) -> bool:
    """True if a build with these architectures runs on a card of this compute capability.

    architectures: as `torch.cuda.get_arch_list()` has them. `sm_86` runs on 8.6 and later cards of
    the same major version, `compute_86` (PTX) on all later ones, `sm_90a` on 9.0 alone. Source:
    "Application Compatibility" of NVIDIA's CUDA C++ Programming Guide.
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
    """The driver's version, the cards, and why nvidia-smi did not tell them."""
    path = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{root / WSL}"
    program = shutil.which("nvidia-smi", path=path)
    return _answer_of(program) if program else ("", (), "")


@cache  # one that hangs is waited for once in a command, not at each question
def _answer_of(program: str) -> tuple[str, tuple[Card, ...], str]:
    """As `_ask_smi`, of this nvidia-smi."""
    for fields in (FIELDS, FIELDS[:-1]):  # drivers before 510 know no compute_cap
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
    rows = [row for row in rows if len(row) == len(fields) and row[1].isdigit()]
    if rows and not done.returncode:
        return rows[0][0], tuple(map(_card, rows)), ""
    lines = (done.stdout + done.stderr).strip().splitlines() or [f"exit code {done.returncode}"]
    return "", (), f"nvidia-smi: {lines[0].rstrip('.')}"


def _card(row: Sequence[str]) -> Card:
    """Of a row of FIELDS; nvidia-smi writes [N/A] for what it cannot tell."""
    _, index, name, uuid, memory, *more = row
    found = re.fullmatch(r"(\d+)\.(\d+)", more[0]) if more else None
    return Card(
        index=int(index),
        name=name,
        uuid=uuid if uuid.startswith("GPU-") else "",
        capability=(int(found[1]), int(found[2])) if found else None,
        memory=int(memory) if memory.isdigit() else None,
    )


# --- /proc and /dev ----------------------------------------------------------------------------


def _loaded_driver(root: Path) -> str:
    """Of the kernel module; what nvidia-smi tells may come from a newer package, not loaded yet."""
    found = re.search(
        r"Kernel Module(?: for \S+)?\s+(\d+(?:\.\d+)+)", _text(root / "proc/driver/nvidia/version")
    )
    return found[1] if found else ""


def _listed_cards(root: Path) -> tuple[Card, ...]:
    """What /proc and /dev tell of the cards: names at most.

    /proc lists those of the host; /dev has the ones of this container. Without any device, those of
    /proc count: one is made when CUDA starts, or the container was started without its GPUs.
    """
    nodes = _devices(root)
    cards, minors = [], set()
    for folder in sorted((root / "proc/driver/nvidia/gpus").glob("*")):
        lines = _text(folder / "information").splitlines()
        facts = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
        minor = facts.get("Device Minor", "")
        if nodes and minor.isdigit() and int(minor) not in nodes:
            continue
        minors.add(int(minor) if minor.isdigit() else len(cards))
        uuid = facts.get("GPU UUID", "")  # with question marks before the card has started
        name = facts.get("Model", "unnamed GPU")
        cards.append(Card(len(cards), name, uuid if "?" not in uuid else ""))
    for _ in nodes - minors:
        cards.append(Card(len(cards), "unnamed GPU"))
    if not cards and _is_wsl(root):
        cards.append(Card(0, "GPU of Windows"))
    return tuple(cards)


def _devices(root: Path) -> set[int]:
    """The numbers of /dev/nvidia0 and so on, the "minor" ones."""
    names = [node.name for node in (root / "dev").glob("nvidia*")]
    return {int(found[1]) for name in names if (found := re.fullmatch(r"nvidia(\d+)", name))}


def _is_wsl(root: Path) -> bool:
    """True on WSL2 with an NVIDIA driver in Windows."""
    if not (root / "dev/dxg").exists():
        return False
    return (root / WSL / "libcuda.so.1").exists() or any(root.glob(WSL_IN_CONTAINER))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
