"""How many GPUs there are, found without importing torch."""

import os
from pathlib import Path

from pipeline.errors import ConfigError


def num_visible_gpus() -> int:
    """NVIDIA GPUs that this process may use; CUDA_VISIBLE_DEVICES is respected."""
    present = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    if not present:
        present = len([node for node in Path("/dev").glob("nvidia*") if node.name[6:].isdigit()])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    return min(present, len([number for number in visible.split(",") if number.strip()]))


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
