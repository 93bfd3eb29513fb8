"""Placement of the ranks: on GPUs of this machine, on its CPU, or on other servers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.runtime.devices import Gpu, lists_gpus, usable_gpus, visible_gpu_names
from pretrain.engine.hostfile import is_this_machine, read_hostfile


@dataclass(frozen=True)
class Placement:
    """device: run_pretraining's --device. gpus: those of this machine, in the order of the ranks.
    servers: other machines with their slots; empty on this one."""

    num_ranks: int
    device: str
    gpus: tuple[Gpu, ...] = ()
    servers: Mapping[str, int] = field(default_factory=dict)

    @property
    def on_gpus(self) -> bool:
        return self.device != "cpu"

    def __str__(self) -> str:
        if self.servers:
            kind = "GPU(s)" if self.on_gpus else "CPU process(es)"
            return f"{self.num_ranks} {kind} of {', '.join(self.servers)}"
        if self.gpus:
            names = dict.fromkeys(gpu.name for gpu in self.gpus)
            return f"{self.num_ranks} GPU(s), {' and '.join(names)}"
        return "the CPU" if self.num_ranks == 1 else f"the CPU, in {self.num_ranks} processes"


def place_ranks(config) -> Placement:
    """Places a rank on each GPU of SYSTEM.NUM_GPUS or slot of SYSTEM.HOSTFILE, or one on the CPU.

    A slot is a GPU, or a process on the CPU with NUM_GPUS 0. Raises ConfigError for an unreadable
    hostfile, and the errors of `usable_gpus`.
    """
    asked, hostfile = config.SYSTEM.NUM_GPUS, config.SYSTEM.HOSTFILE
    if not hostfile:
        return _here(usable_gpus(asked), 1)
    servers = read_hostfile(Path(hostfile))
    slots = sum(servers.values())
    if not is_this_machine(servers):
        return Placement(slots, "cuda" if asked else "cpu", servers=servers)
    on_cpu = not asked or (asked == -1 and not lists_gpus())
    return _here(usable_gpus(0 if on_cpu else slots, "SYSTEM.HOSTFILE"), slots)


def expects_gpus(config) -> bool:
    """True if `place_ranks` is expected to take GPUs; does not import torch."""
    if not config.SYSTEM.NUM_GPUS:
        return False
    hostfile = Path(config.SYSTEM.HOSTFILE or "none")
    elsewhere = hostfile.is_file() and not is_this_machine(read_hostfile(hostfile))
    return elsewhere or lists_gpus()


def _here(gpus: tuple[Gpu, ...], ranks_on_cpu: int) -> Placement:
    if not gpus:
        return Placement(ranks_on_cpu, "cpu")
    return Placement(len(gpus), device_flag(len(gpus)), gpus)


def device_flag(num_gpus: int) -> str:
    """Returns run_pretraining's --device for the first visible GPUs of this machine."""
    names = visible_gpu_names()
    return "cuda" if names is None else f"cuda:{','.join(names[:num_gpus])}"
