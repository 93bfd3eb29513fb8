"""As much of torch as pipeline/runtime/torch_probe.py asks, on the machine that FAKE_MACHINE
describes.

A JSON object: cuda, architectures, driver_error, hangs, and gpus, each with name, uuid, capability,
error. CUDA_VISIBLE_DEVICES is read as CUDA reads it: the list ends at the first entry that names no
card, and of the parts of MIG a program gets one.
"""

import json
import os
import time
from types import SimpleNamespace

_machine = json.loads(os.environ["FAKE_MACHINE"])
__version__ = "2.13.0"
version = SimpleNamespace(cuda=_machine.get("cuda", "13.0"))


def _visible():
    gpus, names = _machine["gpus"], os.environ.get("CUDA_VISIBLE_DEVICES")
    if names is None:
        return gpus
    found = []
    for name in names.split(","):
        by_number = gpus[int(name) : int(name) + 1] if name.isdigit() else []
        by_uuid = [gpu for gpu in gpus if name[4:] and gpu["uuid"].startswith(name)]
        is_second_part = name.startswith("MIG-") and found
        if len(by_number + by_uuid) != 1 or is_second_part:
            break
        found += by_number + by_uuid
    return found


def _init():
    if _machine.get("hangs"):
        time.sleep(60)
    if "driver_error" in _machine:
        raise RuntimeError(_machine["driver_error"])
    if not _visible():
        raise RuntimeError("No CUDA GPUs are available")


def _properties(number):
    gpu = _visible()[number]
    major, minor = gpu["capability"]
    return SimpleNamespace(name=gpu["name"], major=major, minor=minor)


cuda = SimpleNamespace(
    get_arch_list=lambda: _machine.get("architectures", ["sm_75", "sm_80", "sm_86", "sm_90"]),
    init=_init,
    device_count=lambda: len(_visible()),
    get_device_properties=_properties,
)


class _Tensor:
    def __init__(self, gpu, value):
        self.gpu, self.value = gpu, value

    def add(self, number):
        if self.gpu.get("error"):
            raise RuntimeError(self.gpu["error"])
        return _Tensor(self.gpu, self.value + number)

    def item(self):
        return self.value


def ones(size, device):
    return _Tensor(_visible()[int(device.removeprefix("cuda:"))], 1.0)
