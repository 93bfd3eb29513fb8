"""Memory that ran out: which errors say so, and what the kernel's own counters prove."""

import signal
import sys

import numpy as np
import pytest
import torch

from pipeline.runtime.oom import OomKills, cause_of_death, is_out_of_memory

TOO_MANY = 1 << 46  # bytes: no machine has them, and no kernel promises them


def fail_to_allocate():
    torch.empty(TOO_MANY, dtype=torch.uint8)


def test_a_real_failure_is_recognised():
    with pytest.raises(RuntimeError) as failure:
        fail_to_allocate()
    assert is_out_of_memory(failure.value)
    with pytest.raises(MemoryError) as failure:
        np.empty(TOO_MANY, np.uint8)
    assert is_out_of_memory(failure.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.AcceleratorError("CUDA error: out of memory", 2),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("std::bad_alloc"),
        MemoryError(),
    ],
)
def test_what_the_libraries_say_is_recognised(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        RuntimeError("[/gloo/transport/tcp/pair.cc:544] Connection closed by peer"),
        ValueError("out of memory"),
        OSError(28, "No space left on device"),
    ],
)
def test_other_errors_are_not_taken_for_it(error):
    assert not is_out_of_memory(error)


# --- the kernel's counters -------------------------------------------------------------------

V2, V1 = "sys/fs/cgroup/{}memory.events", "sys/fs/cgroup/memory/{}memory.oom_control"
GROUP_V2, GROUP_V1 = "0::/user.slice/run.scope\n", "0::/\n4:memory:/job/7\n9:name=systemd:/\n"


def count(root, path, number, before="low 0\noom 9\n"):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(f"{before}oom_kill {number}\noom_group_kill 0\n")


@pytest.mark.parametrize(
    ("group", "counter"),
    [
        (GROUP_V2, V2.format("user.slice/run.scope/")),
        (GROUP_V1, V1.format("job/7/")),
        ("0::/\n", V2.format("")),  # a container
        (GROUP_V1, V1.format("")),  # the same, with version 1
    ],
)
def test_the_count_of_our_own_group_proves_it(tmp_path, group, counter):
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(group)
    count(tmp_path, "proc/vmstat", 5)
    count(tmp_path, counter, 2)
    kills = OomKills(tmp_path)
    count(tmp_path, "proc/vmstat", 6)  # somebody else's
    assert kills.happened is False
    count(tmp_path, counter, 3)
    assert kills.happened is True
    assert OomKills(tmp_path).happened is False  # none since then


def test_the_count_of_the_machine_is_no_proof(tmp_path):
    count(tmp_path, "proc/vmstat", 5)
    kills = OomKills(tmp_path)
    assert kills.happened is False
    count(tmp_path, "proc/vmstat", 6)
    assert kills.happened is None


def test_without_any_count_nothing_is_known(tmp_path):
    assert OomKills(tmp_path).happened is None


@pytest.mark.skipif(sys.platform != "linux", reason="counters of Linux")
def test_here_nothing_has_just_been_killed():
    assert OomKills().happened in (False, None)


def test_words(tmp_path):
    unknown, root = OomKills(tmp_path / "none"), tmp_path / "root"
    count(root, "sys/fs/cgroup/memory.events", 0)
    own = OomKills(root)
    assert cause_of_death(-signal.SIGKILL, unknown) == (
        "was killed, most likely because memory ran out"
    )
    assert "from outside (the kernel knows of no lack" in cause_of_death(-signal.SIGKILL, own)
    count(root, "sys/fs/cgroup/memory.events", 1)
    said = "was killed by the kernel because memory ran out"
    assert cause_of_death(-signal.SIGKILL, own) == said
    assert cause_of_death(-signal.SIGSEGV, own) == "died of SIGSEGV"
    assert cause_of_death(-50, own) == "died of signal 50"
    assert cause_of_death(7, own) == "ended with exit code 7"
    assert cause_of_death(None, own) == "was ended from outside"
