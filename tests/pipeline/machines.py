"""Faked machines: a folder with a /proc, a /dev and an nvidia-smi, and a torch that fits."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pipeline.runtime import devices
from pipeline.runtime.nvidia import lists_cards, read_system

V100 = "Tesla V100-SXM2-16GB, 7.0"
A100 = "NVIDIA A100-SXM4-80GB, 8.0"

PROC_VERSION = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Thu Oct 19 18:56:32 UTC 2023\n"
    "GCC version:  gcc version 11.4.0 (Ubuntu 11.4.0-1ubuntu1~22.04)\n"
)
INFORMATION = """\
Model: \t\t {name}
IRQ:   \t\t 16
GPU UUID: \t GPU-????????-????
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


def add_proc_card(root: Path, minor: int, name: str) -> None:
    folder = root / f"proc/driver/nvidia/gpus/0000:{minor:02x}:00.0"
    folder.mkdir(parents=True)
    (folder / "information").write_text(INFORMATION.format(name=name, minor=minor))


def add_devices(root: Path, *names: str) -> None:
    for name in names:
        (root / "dev").mkdir(exist_ok=True)
        (root / "dev" / name).touch()


def add_smi(folder: Path, driver: str, cards: Sequence[str], knows_capability: bool = True) -> None:
    """An nvidia-smi that answers a query as the real one does. cards: `name, capability`."""
    rows = [f"{driver}, {card if knows_capability else card.split(', ')[0]}" for card in cards]
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


FAKE_TORCH = Path(__file__).resolve().parent / "fake_torch"
NO_KERNEL = "CUDA error: no kernel image is available for execution on the device\nCompile with"
OLD_DRIVER = (
    "The NVIDIA driver on your system is too old (found version 12020). Please update your GPU "
    "driver by downloading and installing a new version from the URL: http://www.nvidia.com"
)


def gpu(number: int, name: str = "NVIDIA A100-SXM4-80GB", capability=(8, 0), **more) -> dict:
    """A GPU of the fake torch."""
    return {"name": name, "uuid": f"GPU-{number}abc", "capability": capability, **more}


class Machine:
    """A faked machine for this process and its children. root: has its /proc, /dev and tools."""

    def __init__(self, root: Path, monkeypatch):
        self.root, self._monkeypatch = root, monkeypatch
        monkeypatch.setattr(devices, "lists_cards", partial(lists_cards, root))
        monkeypatch.setattr(devices, "read_system", partial(read_system, root))
        monkeypatch.setattr("platform.machine", lambda: "x86_64")
        monkeypatch.setenv("PATH", f"{root / 'bin'}:/bin:/usr/bin")
        monkeypatch.setenv("PYTHONPATH", str(FAKE_TORCH))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.delenv("DS_ACCELERATOR", raising=False)

    def has(self, *gpus: dict, driver: str = "580.95.05", **torch) -> None:
        """Cards that all are told of, as on most machines. torch: keys of the fake torch."""
        add_driver(self.root, driver)
        add_devices(self.root, *(f"nvidia{number}" for number in range(len(gpus))))
        rows = ["{name}, {}.{}".format(*g["capability"], **g) for g in gpus]
        add_smi(self.root / "bin", driver, rows)
        self.torch_finds(*gpus, **torch)

    def torch_finds(self, *gpus: dict, **torch) -> None:
        self._monkeypatch.setenv("FAKE_MACHINE", json.dumps({"gpus": gpus, **torch}))
