"""Where the ranks of a run compute: on GPUs of this machine, on its CPU, or on other servers."""

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
    """A rank for each GPU that SYSTEM.NUM_GPUS takes, or one on the CPU; or for each slot of
    SYSTEM.HOSTFILE.

    A slot is a GPU, or a process on the CPU with NUM_GPUS 0. Raises ConfigError for a hostfile that
    cannot be read, and as `usable_gpus` does.
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
    """Whether `place_ranks` will take GPUs, as far as one knows without torch."""
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
    """run_pretraining's --device for ranks on the first visible GPUs of this machine."""
    names = visible_gpu_names()
    return "cuda" if names is None else f"cuda:{','.join(names[:num_gpus])}"
