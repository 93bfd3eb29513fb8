"""How many GPUs there are, found without importing torch."""

import os
from pathlib import Path

from pipeline.errors import ConfigError


def num_visible_gpus() -> int:
    """NVIDIA GPUs that this process may use; CUDA_VISIBLE_DEVICES is respected."""
    present = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    if not present:
        present = len([node for node in Path("/dev").glob("nvidia*") if node.name[6:].isdigit()])
    visible = visible_gpu_names()
    return present if visible is None else min(present, len(visible))


def visible_gpu_names() -> list[str] | None:
    """The entries of CUDA_VISIBLE_DEVICES up to the first -1, as CUDA reads it; None if not set."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return None
    names = [name.strip() for name in visible.split(",")]
    end = next((i for i, name in enumerate(names) if name in ("", "-1")), len(names))
    return names[:end]


def num_gpus(asked: int) -> int:
    """GPUs to use for SYSTEM.NUM_GPUS: -1 all, 0 none. ConfigError if there are fewer."""
    present = num_visible_gpus()
    if asked > present:
        raise ConfigError(
            [
                f"SYSTEM.NUM_GPUS: not that many here, got {asked}, expected at most {present} "
                "(-1 takes what there is, 0 trains on the CPU)"
            ]
        )
    return present if asked == -1 else asked
