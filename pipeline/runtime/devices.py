"""The usable GPUs, according to torch, and explanations of unusable ones.

The pipeline never imports torch; it asks a child process (pipeline/runtime/torch_probe.py).
Computing processes call `take_device` before they import torch and `device_type` afterwards.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from pipeline.environment import PROJECT
from pipeline.errors import ConfigError, MachineError, StageError
from pipeline.runtime.nvidia import Card, has_kernels, is_on_pci_bus, lists_cards, read_system
from pipeline.runtime.processes import answer
from pipeline.runtime.torch_build import misfit, way_out, why_no_way_out

PROBE_SECONDS = 300.0  # for importing torch from a cold network disk and waking the GPUs
# Entries that end the list in CUDA_VISIBLE_DEVICES; NoDevFiles is Slurm's, for jobs without GPUs.
LAST = ("", "NoDevFiles")
TO_CPU = "train on the CPU (SYSTEM.NUM_GPUS: 0, or DS_ACCELERATOR=cpu without main.py)"
# A rank's flag, for `take_device`.
DEVICE = re.compile(r"auto|cpu|cuda(:[\w/.-]+(,[\w/.-]+)*)?")


@dataclass(frozen=True)
class Gpu:
    """A GPU of torch. problem: why torch cannot compute on it, empty if it can."""

    name: str
    capability: tuple[int, int]
    problem: str = ""

    @property
    def computes_in_bf16(self) -> bool:
        """False before Ampere: torch then emulates bf16. Source: torch.cuda.is_bf16_supported."""
        return self.capability >= (8, 0)


@dataclass(frozen=True)
class Torch:
    """The installed torch, and its visible GPUs in CUDA's order.

    cuda: the CUDA version of the build, e.g. `13.0`; empty in a build for the CPU. architectures:
    of its kernels, e.g. `sm_86`. problem: why it has no GPU. hangs: True if it gave no answer.
    """

    version: str
    cuda: str = ""
    architectures: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    problem: str = ""
    hangs: bool = False

    def __str__(self) -> str:
        return f"torch {self.version}" + (f" for CUDA {self.cuda}" if self.cuda else "")


# --- for the pipeline ----------------------------------------------------------------------------


def visible_gpu_names() -> list[str] | None:
    """Returns the entries of CUDA_VISIBLE_DEVICES that CUDA reads; None if it is not set."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return None
    names = [name.strip() for name in visible.split(",")]
    end = next((i for i, name in enumerate(names) if name in LAST or name[:1] == "-"), len(names))
    return names[:end]


def lists_gpus() -> bool:
    """True if the system lists NVIDIA cards and CUDA_VISIBLE_DEVICES does not hide them all.

    Cheap: torch may still be unable to use them.
    """
    return visible_gpu_names() != [] and lists_cards()


def lacks_driver() -> bool:
    """True if the PCI bus has an NVIDIA GPU without a loaded driver, as after a kernel update."""
    return visible_gpu_names() != [] and not lists_cards() and is_on_pci_bus()


def usable_gpus(asked: int, key: str = "SYSTEM.NUM_GPUS") -> tuple[Gpu, ...]:
    """Returns the GPUs for SYSTEM.NUM_GPUS: -1 all, 0 none, n the first ones in CUDA's order.

    All are those in CUDA_VISIBLE_DEVICES, or else on the system. Raises ConfigError if there are
    fewer, MachineError if torch cannot use one of them. key: for the error message.
    """
    if not asked:
        return ()
    if not lists_gpus():
        if asked > 0:
            raise ConfigError([_too_few(key, asked, 0)])
        return ()
    found = ask_torch()
    gpus = found.gpus if asked == -1 else found.gpus[:asked]
    if not gpus or any(gpu.problem for gpu in gpus):
        raise MachineError([f"{key}: {_why_unusable(found, gpus)}"])
    if asked > len(gpus):
        raise ConfigError([_too_few(key, asked, len(gpus))])
    if asked == -1 and (missing := _missing(len(gpus))):
        raise MachineError([f"{key}: {missing}"])
    return gpus


def ask_torch() -> Torch:
    """Returns the torch and GPUs of a child process; cached for each environment."""
    return _ask_torch(tuple(sorted(os.environ.items())))


@cache
def _ask_torch(environment: tuple[tuple[str, str], ...]) -> Torch:
    command = [sys.executable, "-m", "pipeline.runtime.torch_probe"]
    try:
        done = answer(command, PROBE_SECONDS, dict(environment), PROJECT)
    except subprocess.TimeoutExpired:
        problem = f"it gave no answer in {PROBE_SECONDS:.0f} s, perhaps as the driver hangs"
        return Torch("here", problem=problem, hangs=True)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Torch("here", problem=f"it cannot be asked ({last})")
    return _as_torch(json.loads(lines[-1]))


def _as_torch(found: dict[str, Any]) -> Torch:
    """Converts the answer of torch_probe."""
    gpus = tuple(
        Gpu(gpu["name"], tuple(gpu["capability"]), gpu["problem"]) for gpu in found["gpus"]
    )
    architectures = tuple(found["architectures"])
    return Torch(found["version"], found["cuda"], architectures, gpus, found["problem"])


# --- for processes that compute ------------------------------------------------------------------


def take_device(device: str) -> None:
    """Sets this process's device before it imports torch.

    device: `cpu`, `cuda`, `cuda:2,GPU-ab` with names as in CUDA_VISIBLE_DEVICES, or `auto` for
    DS_ACCELERATOR's, or else any. Sets DS_ACCELERATOR for DeepSpeed and CUDA_VISIBLE_DEVICES for
    torch.
    """
    kind, _, names = device.partition(":")
    if kind == "auto":
        kind = os.environ.get("DS_ACCELERATOR", "")
    else:
        os.environ["DS_ACCELERATOR"] = kind
    if kind == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif names:
        os.environ["CUDA_VISIBLE_DEVICES"] = names


def device_type(number: int = 0) -> str:
    """Imports torch and returns this process's device: `cuda` or `cpu`.

    number: of its GPU, among the visible ones. Raises StageError if torch cannot use the GPU set by
    `take_device` or listed by the system: a fallback to the CPU could go unnoticed for days.
    """
    given = os.environ.get("DS_ACCELERATOR", "")
    if given not in ("", "cuda"):
        return given
    import torch

    if not given and not torch.cuda.is_available() and not lists_gpus():
        return "cpu"
    from pipeline.runtime.torch_probe import look

    found = _as_torch(look([number]))
    gpus = found.gpus[number : number + 1]
    if not gpus or gpus[0].problem:
        raise StageError(_why_unusable(found, gpus))
    return "cuda"


# --- error messages ------------------------------------------------------------------------------


def _too_few(key: str, asked: int, present: int) -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    problem = "" if present else read_system().problem
    if visible is not None and lists_cards():
        problem = f"CUDA_VISIBLE_DEVICES={visible}"
    more = f" ({problem})" if problem else ""
    return (
        f"{key}: not that many GPUs here{more}, got {asked}, expected at most {present} "
        "(SYSTEM.NUM_GPUS: -1 takes what there is, 0 trains on the CPU)"
    )


def _missing(count: int) -> str:
    """Returns the remedy if torch has fewer than the expected GPUs, or ""."""
    names = visible_gpu_names()
    listed = len(read_system().cards if names is None else names)
    if count >= listed:
        return ""
    if names is None:
        where = f"{listed} that the system lists"
        advice = "see why in nvidia-smi"
    else:
        where = f"{listed} that CUDA_VISIBLE_DEVICES names"
        advice = f"CUDA ignores {names[count]!r} and what follows (of MIG, it takes one part)"
    return (
        f"torch can use {count} GPU(s) of the {where}: {advice}, or set SYSTEM.NUM_GPUS: {count} "
        "to use those"
    )


def _why_unusable(found: Torch, gpus: Iterable[Gpu]) -> str:
    """Returns a sentence with the unusable GPUs, the cause and the remedies."""
    system = read_system()
    bad = [gpu for gpu in gpus if gpu.problem]
    if bad:
        what, problem = _together(gpu.name for gpu in bad), _problem_with(found, bad[0])
    else:
        what = _together(card.name for card in system.cards) or "a GPU"
        problem = found.problem or f"it finds {len(found.gpus)} GPU(s), and needs one more"
        if names := visible_gpu_names():
            problem += f" with CUDA_VISIBLE_DEVICES={','.join(names)}"
    driver = f"driver {system.driver}" if system.driver else "no NVIDIA driver"
    more = f" ({system.problem})" if system.problem else ""
    ways = [TO_CPU]
    if bad and (good := [i for i, gpu in enumerate(found.gpus) if not gpu.problem]):
        ways.insert(0, f"set CUDA_VISIBLE_DEVICES={_names_of(good)} to leave it out")
    seen = tuple(Card(gpu.name, gpu.capability) for gpu in found.gpus)
    system = replace(system, cards=seen or system.cards)
    if not found.hangs and misfit(system, found.cuda, found.architectures):
        if way := way_out(system):
            ways.insert(0, way)
        else:
            more += f", and {why_no_way_out(system)}"
    return f"{found} cannot use {what} ({driver}): {problem}{more}; {', or '.join(ways)}"


def _problem_with(found: Torch, gpu: Gpu) -> str:
    if has_kernels(gpu.capability, found.architectures):
        return gpu.problem
    capability, built = "{}.{}".format(*gpu.capability), " ".join(found.architectures)
    return f"it has no kernels for compute capability {capability}, only for {built}"


def _names_of(numbers: Iterable[int]) -> str:
    """Returns a new value of CUDA_VISIBLE_DEVICES for GPUs by CUDA's present numbers."""
    names = visible_gpu_names()
    return ",".join(str(number) if names is None else names[number] for number in numbers)


def _together(names: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(names))
