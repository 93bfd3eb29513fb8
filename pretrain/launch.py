"""The command that starts the ranks: DeepSpeed's launcher, its options and its environment."""

import base64
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from pipeline.runtime.processes import python_command
from pretrain.engine.hostfile import is_this_machine, read_hostfile
from pretrain.engine.placement import Placement
from pretrain.flags import flag_keys

if TYPE_CHECKING:
    from yacs.config import CfgNode

SCRIPT = Path(__file__).resolve().with_name("run_pretraining.py")
LAUNCHER = "deepspeed.launcher.launch"  # starts the ranks of a server
RUNNER = "deepspeed.launcher.runner"  # starts a launcher on each server


def training_flags(config: "CfgNode", dataset_path: Path, output_dir: Path) -> dict[str, Any]:
    """Returns the flags of run_pretraining.py for this config, by name."""
    flags: dict[str, Any] = {
        "dataset_path": dataset_path,
        "output_dir": output_dir,
        "job_name": f"{output_dir.parent.name}/{output_dir.name}",
        "progress_lines": True,
    }
    for flag, key in flag_keys().items():
        section, _, name = key.partition(".")
        flags[flag] = config[section][name]
    if flags["deepspeed_config"]:
        flags["deepspeed_config"] = Path(flags["deepspeed_config"]).resolve()
    return flags


def launch_command(flags: dict[str, Any], launcher: Sequence[str], port: int) -> list[str]:
    """Returns the command line that starts the ranks; launcher: from `launcher_words`."""
    return python_command(
        *("-m", *launcher, "--log_level", "warning", "--master_port", str(port)),
        str(SCRIPT),
        *flag_words(flags),
    )


def flag_words(flags: dict[str, Any]) -> list[str]:
    """Returns flags as words of a command line."""
    words = []
    for name, value in flags.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, list):
            words.append(f"--{name}={','.join(map(str, value))}")
        else:
            words.append(f"--{name}={value}")
    return words


def launcher_words(hostfile: str, num_ranks: int) -> tuple[str, ...]:
    """Returns DeepSpeed's module, with options, for the servers of a hostfile or for this machine.

    The launcher counts GPUs but knows neither UUIDs nor MIG names, and sorts the indices: the ranks
    get their GPUs by the flag `device`. Without the runner, ranks of this machine start sooner.
    """
    if hostfile and not is_this_machine(read_hostfile(Path(hostfile))):
        # A single server that is not this machine would else be taken for it.
        return RUNNER, "--hostfile", str(Path(hostfile).resolve()), "--force_multi"
    slots = json.dumps({"localhost": list(range(max(1, num_ranks)))})
    world_info = base64.urlsafe_b64encode(slots.encode()).decode()
    return LAUNCHER, f"--world_info={world_info}", "--master_addr=127.0.0.1"


def launch_environment(config: "CfgNode", place: Placement) -> dict[str, str]:
    """Returns the environment variables of the launcher and the ranks; secrets travel only here.

    DS_ACCELERATOR is for the launcher (the ranks set theirs from the flag `device`): it needs no
    GPU itself, and fails where it expects one. With "cuda" it passes NCCL's variables on to other
    servers.
    """
    environment = {"PYTHONUNBUFFERED": "1"}
    if place.servers and place.on_gpus:
        environment["DS_ACCELERATOR"] = "cuda"
    else:
        environment |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    if config.WANDB.MODE != "disabled" and config.WANDB.API_KEY:
        environment["WANDB_API_KEY"] = config.WANDB.API_KEY
    return environment


def local_ranks(pid: int) -> list[int]:
    """Returns the process IDs of the ranks on this machine; none if there are several servers.

    pid: of the process of `launch_command`. A signal to the ranks themselves leaves them time to
    save; the launcher kills each after 30 s.
    """
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        launchers = [one for one in (process, *process.children()) if LAUNCHER in one.cmdline()]
        return [rank.pid for launcher in launchers for rank in launcher.children()]
    return []
