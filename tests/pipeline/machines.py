"""Faked machines: folders with what /proc and /dev hold, and an nvidia-smi that is a script."""

from collections.abc import Sequence
from pathlib import Path

V100 = "Tesla V100-SXM2-16GB, GPU-7a1f0000-0000-0000-0000-000000000001, 16160, 7.0"
A100 = "NVIDIA A100-SXM4-80GB, GPU-a1000000-0000-0000-0000-00000000000{}, 81920, 8.0"

PROC_VERSION = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Thu Oct 19 18:56:32 UTC 2023\n"
    "GCC version:  gcc version 11.4.0 (Ubuntu 11.4.0-1ubuntu1~22.04)\n"
)
INFORMATION = """\
Model: \t\t {name}
IRQ:   \t\t 16
GPU UUID: \t {uuid}
Video BIOS: \t ??.??.??.??.??
Bus Type: \t PCIe
Bus Location: \t 0000:{minor:02x}:00.0
Device Minor: \t {minor}
GPU Excluded:\t No
"""


def add_driver(root: Path, version: str) -> None:
    """What a loaded kernel module tells."""
    folder = root / "proc/driver/nvidia"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "version").write_text(PROC_VERSION.format(version))


def add_proc_card(root: Path, minor: int, name: str, uuid: str = "GPU-????????-????") -> None:
    folder = root / f"proc/driver/nvidia/gpus/0000:{minor:02x}:00.0"
    folder.mkdir(parents=True)
    (folder / "information").write_text(INFORMATION.format(name=name, uuid=uuid, minor=minor))


def add_devices(root: Path, *names: str) -> None:
    for name in names:
        (root / "dev").mkdir(exist_ok=True)
        (root / "dev" / name).touch()


def add_smi(folder: Path, driver: str, cards: Sequence[str], knows_capability: bool = True) -> None:
    """An nvidia-smi that answers a query as the real one does. cards: `name, uuid, MiB, cc`."""
    rows = []
    for index, card in enumerate(cards):
        name, uuid, memory, capability = card.format(index).split(", ")
        known = (driver, str(index), name, uuid, memory, capability)
        rows.append(", ".join(known if knows_capability else known[:-1]))
    refusal = 'Field "compute_cap" is not a valid field to query.'
    body = (
        "" if knows_capability else f"case $1 in *compute_cap*) echo '{refusal}'; exit 2;; esac\n"
    )
    add_program(folder, body + "cat <<'END'\n" + "\n".join(rows) + "\nEND\n")


def add_program(folder: Path, body: str) -> None:
    """An nvidia-smi with these lines of shell."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nvidia-smi").write_text("#!/bin/sh\n" + body)
    (folder / "nvidia-smi").chmod(0o755)
