"""A child process that tests torch's GPUs; see pipeline/runtime/devices.py.

Prints a JSON object as its last line.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

import torch


def look(numbers: Sequence[int] | None = None) -> dict[str, Any]:
    """Returns the fields of devices.Torch, with its GPUs as dicts.

    numbers: of the GPUs to test, by default all. A test allocates some memory on its GPU for this
    process.
    """
    build = {
        "version": torch.__version__,
        "cuda": torch.version.cuda or "",
        "architectures": torch.cuda.get_arch_list(),
    }
    if not torch.version.cuda:
        return {**build, "problem": "it is built without CUDA", "gpus": []}
    try:
        torch.cuda.init()  # raises the cause, unlike is_available()
        tried = range(torch.cuda.device_count()) if numbers is None else numbers
        gpus = [_gpu(number, number in tried) for number in range(torch.cuda.device_count())]
    except Exception as error:
        return {**build, "problem": _reason(error), "gpus": []}
    return {**build, "problem": "" if gpus else "it finds no GPU", "gpus": gpus}


def _gpu(number: int, is_tried: bool) -> dict[str, Any]:
    found = torch.cuda.get_device_properties(number)
    return {
        "name": found.name,
        "capability": [found.major, found.minor],
        "problem": _try(number) if is_tried else "",
    }


def _try(number: int) -> str:
    """Runs a kernel on a GPU; returns the problem (busy, full, unsupported) or ""."""
    try:
        result = torch.ones(1, device=f"cuda:{number}").add(1).item()
    except Exception as error:
        return _reason(error)
    return "" if result == 2 else f"1 + 1 is {result:g} there"


def _reason(error: Exception) -> str:
    """Returns CUDA's message (`Error 802: system not yet initialized`) or torch's first line."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if found := re.search(r"\bError \d+: .+", line):
        return found[0]
    return re.split(r"\. (?=[A-Z])", line)[0].rstrip(".")


if __name__ == "__main__":
    print(json.dumps(look()), flush=True)
