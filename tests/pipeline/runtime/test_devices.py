"""Which GPUs a run may use, on faked machines; the probe itself runs, beside a fake torch."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, StageError
from pipeline.runtime import devices
from pipeline.runtime.devices import (
    Gpu,
    ask_torch,
    device_type,
    lists_gpus,
    take_device,
    usable_gpus,
    visible_gpu_names,
)
from tests.pipeline.machines import (
    NO_KERNEL,
    OLD_DRIVER,
    Machine,
    add_devices,
    add_proc_card,
    add_program,
    add_smi,
    gpu,
)

PROJECT = Path(__file__).resolve().parents[3]
A100 = Gpu("NVIDIA A100-SXM4-80GB", (8, 0))


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch)


def refusal(asked):
    """The one problem with SYSTEM.NUM_GPUS."""
    with pytest.raises(ConfigError) as found:
        usable_gpus(asked)
    [problem] = found.value.problems
    return problem


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("2,3", ["2", "3"]),
        ("-1", []),
        ("", []),
        ("0,-1,1", ["0"]),
        ("GPU-ab, 1", ["GPU-ab", "1"]),
        ("MIG-GPU-ab/1/0", ["MIG-GPU-ab/1/0"]),
        ("NoDevFiles", []),
    ],
)
def test_visible_names_end_as_cuda_ends_them(monkeypatch, value, names):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_gpu_names() == names


def test_without_the_variable_all_are_visible(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpu_names() is None


# --- counting ----------------------------------------------------------------------------------


def test_a_machine_without_cards_is_not_probed(machine, monkeypatch):
    monkeypatch.setattr(devices, "ask_torch", pytest.fail)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # as in many a profile
    assert len(usable_gpus(-1)) == len(usable_gpus(0)) == 0 and not lists_gpus()
    assert "not that many GPUs here, got 1, expected at most 0" in refusal(1)


def test_hidden_cards_are_none_and_not_probed(machine, monkeypatch):
    machine.has(gpu(0))
    assert lists_gpus()
    monkeypatch.setattr(devices, "ask_torch", pytest.fail)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert len(usable_gpus(-1)) == len(usable_gpus(0)) == 0 and not lists_gpus()
    assert "here (CUDA_VISIBLE_DEVICES=-1), got 1, expected at most 0" in refusal(1)


def test_torch_counts_in_a_child_and_is_asked_once(machine, monkeypatch):
    machine.has(gpu(0), gpu(1, "NVIDIA GeForce RTX 4090", (8, 9)))
    both = (A100, Gpu("NVIDIA GeForce RTX 4090", (8, 9)))
    assert usable_gpus(-1) == usable_gpus(2) == both
    monkeypatch.setattr(devices, "answer", pytest.fail)
    assert usable_gpus(1) == (A100,)
    assert refusal(3).startswith(
        "SYSTEM.NUM_GPUS: not that many GPUs here, got 3, expected at most 2"
    )
    monkeypatch.undo()  # another environment is another question
    machine.has(gpu(0))
    monkeypatch.setenv("PYTHONPATH", str(PROJECT / "tests/pipeline/fake_torch"))
    assert len(ask_torch().gpus) == 1


def test_the_pipeline_does_not_import_torch():
    code = "import sys; from pipeline.runtime.devices import usable_gpus; usable_gpus(-1); "
    code += "print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("capability", "native"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((12, 1), True)]
)
def test_bf16_is_native_from_ampere_on(capability, native):
    assert Gpu("any", capability).computes_in_bf16 is native


# --- cards that torch cannot use -----------------------------------------------------------------


def test_an_old_driver_is_named_with_the_ways_out(machine):
    machine.has(gpu(0), gpu(1), driver="535.129.03", driver_error=OLD_DRIVER)
    problem = refusal(-1)
    assert problem == refusal(1) == refusal(2)
    assert problem.startswith(
        "SYSTEM.NUM_GPUS: torch 2.13.0 for CUDA 13.0 cannot use NVIDIA A100-SXM4-80GB (driver "
        "535.129.03): The NVIDIA driver on your system is too old (found version "
        "12020); run `TORCH_INDEX_URL=https://download.pytorch.org/whl/cu126 bash "
    )
    assert "install.sh` for a torch that can use all of them, or train on the CPU" in problem
    assert problem.endswith("(SYSTEM.NUM_GPUS: 0, or DS_ACCELERATOR=cpu without main.py)")
    assert len(usable_gpus(0)) == 0


def test_a_card_without_kernels_is_named(machine, monkeypatch):
    v100 = gpu(0, "Tesla V100-SXM2-16GB", (7, 0), error=NO_KERNEL)
    machine.has(v100, gpu(1))
    problem = refusal(-1)
    assert problem.startswith(
        "SYSTEM.NUM_GPUS: torch 2.13.0 for CUDA 13.0 cannot use Tesla V100-SXM2-16GB (driver "
        "580.95.05): it has no kernels for compute capability 7.0, only for sm_75 "
        "sm_80 sm_86 sm_90; run `TORCH_INDEX_URL=https://download.pytorch.org/whl/cu126 bash "
    )
    assert ", or set CUDA_VISIBLE_DEVICES=1 to leave it out, or train" in problem
    assert "update" not in problem
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert usable_gpus(-1) == (A100,)


def test_a_display_card_beside_others_is_left_out_by_the_others_names(machine, monkeypatch):
    """In CUDA's order, or by the names that the user has given."""
    old = gpu(1, "Quadro P400", (6, 1), error=NO_KERNEL)
    machine.has(old, gpu(0, "NVIDIA GeForce RTX 5090", (12, 0)), architectures=["sm_75", "sm_120"])
    problem = refusal(-1)
    assert "only for sm_75 sm_120, and no build of torch can use all of them; set " in problem
    assert "; set CUDA_VISIBLE_DEVICES=1 to leave it out, or train on the CPU" in problem
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1,GPU-0")
    assert "; set CUDA_VISIBLE_DEVICES=GPU-0 to leave it out, or" in refusal(-1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-0")
    assert [found.name for found in usable_gpus(-1)] == ["NVIDIA GeForce RTX 5090"]


COUNTING = (
    "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling "
    "NumCudaDevices() that might have already set an error? Error 802: system not yet initialized"
)
UNKNOWN = (
    "CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing env "
    "variable CUDA_VISIBLE_DEVICES after program start. Setting the available devices to be zero."
)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (COUNTING, "): Error 802: system not yet initialized; train"),
        (UNKNOWN, "): " + UNKNOWN.removesuffix(". Setting the available devices to be zero.")),
    ],
)
def test_what_cuda_says_is_told(machine, error, told):
    """802: of a server whose fabric manager does not run."""
    machine.has(gpu(0), driver_error=error)
    assert told in refusal(-1)


def test_a_card_that_others_keep_busy_is_named_as_it_is(machine):
    busy = "CUDA error: CUDA-capable device(s) is/are busy or unavailable\nCUDA kernel errors might"
    machine.has(gpu(0), gpu(1, error=busy))
    problem = refusal(-1)
    assert ": CUDA error: CUDA-capable device(s) is/are busy or unavailable; set CUDA_VI" in problem
    assert "install" not in problem
    assert usable_gpus(1) == (A100,)  # the other one is of no concern then


def test_a_torch_for_the_cpu_beside_a_card(machine):
    machine.has(gpu(0), cuda=None)
    problem = refusal(-1)
    assert "torch 2.13.0 cannot use NVIDIA A100-SXM4-80GB (driver 580.95.05)" in problem
    assert ": it is built without CUDA; run `EXTREMEBERT_REINSTALL=1 bash " in problem


def test_fewer_gpus_than_the_system_lists_are_not_taken_for_all(machine):
    machine.has(gpu(0), gpu(1), gpu(2))
    machine.torch_finds(gpu(0), gpu(1))
    problem = refusal(-1)
    assert "torch can use 2 GPU(s) of the 3 that the system lists" in problem
    assert problem.endswith("or set SYSTEM.NUM_GPUS: 2 to use those")
    assert len(usable_gpus(2)) == 2


@pytest.mark.slow
def test_a_torch_that_hangs_or_breaks_is_given_up(machine, monkeypatch):
    machine.has(gpu(0), hangs=True)
    monkeypatch.setattr(devices, "PROBE_SECONDS", 0.5)
    begin = time.monotonic()
    problem = refusal(-1)
    assert "it gave no answer in 0 s" in problem and "install.sh" not in problem
    assert time.monotonic() - begin < 5
    monkeypatch.setenv("FAKE_MACHINE", "not JSON")
    monkeypatch.setattr(devices, "PROBE_SECONDS", 30)
    assert "torch here cannot use NVIDIA A100-SXM4-80GB" in refusal(-1)
    assert "it cannot be asked (json.decoder.JSONDecodeError" in refusal(-1)


# --- containers, WSL2, names ---------------------------------------------------------------------


def test_a_container_has_fewer_cards_than_its_proc(machine):
    """And no nvidia-smi."""
    for minor in range(8):
        add_proc_card(machine.root, minor, "NVIDIA A100-SXM4-80GB")
    add_devices(machine.root, "nvidia5")
    machine.torch_finds(gpu(5))
    assert len(usable_gpus(-1)) == 1


def test_a_container_that_was_started_without_its_gpus(machine):
    add_proc_card(machine.root, 0, "NVIDIA H100 80GB HBM3")
    machine.torch_finds(driver_error="Found no NVIDIA driver on your system. Please check")
    problem = refusal(-1)
    assert "cannot use NVIDIA H100 80GB HBM3" in problem
    assert "was the container started without its GPUs?" in problem


def test_wsl(machine):
    add_devices(machine.root, "dxg")
    machine.torch_finds(driver_error="Found no NVIDIA driver on your system. Please check")
    assert len(usable_gpus(-1)) == 0  # no NVIDIA card behind it
    folder = machine.root / "usr/lib/wsl/lib"
    add_smi(folder, "552.22", ["NVIDIA GeForce RTX 4090, 8.9"])
    (folder / "libcuda.so.1").touch()
    assert "NVIDIA GeForce RTX 4090 (driver 552.22)" in refusal(-1)
    machine.torch_finds(gpu(9, "NVIDIA GeForce RTX 4090", (8, 9)))
    assert len(usable_gpus(-1)) == 1


def test_a_broken_nvidia_smi_is_told_of_where_torch_fails(machine):
    machine.has(gpu(0))
    mismatch = "Failed to initialize NVML: Driver/library version mismatch"
    add_program(machine.root / "bin", f"echo '{mismatch}'; exit 18\n")
    assert len(usable_gpus(-1)) == 1
    machine.torch_finds(driver_error="CUDA unknown error - this may be due to")
    assert f"(nvidia-smi: {mismatch})" in refusal(-1)


@pytest.mark.parametrize("names", ["GPU-2abc,GPU-0", "2,0", "GPU-2"])
def test_gpus_by_name_or_number(machine, monkeypatch, names):
    """UUIDs may be cut short."""
    machine.has(gpu(0), gpu(1), gpu(2, "NVIDIA L4", (8, 9)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    assert next(found.name for found in usable_gpus(-1)) == "NVIDIA L4"
    assert len(usable_gpus(-1)) == len(names.split(","))


@pytest.mark.parametrize(
    ("names", "count", "first_not_taken"),
    [("GPU-1,GPU-7,GPU-0", 1, "GPU-7"), ("0,3,1", 1, "3"), ("MIG-a,MIG-b", 1, "MIG-b")],
)
def test_names_that_cuda_cuts_short_are_an_error(
    machine, monkeypatch, names, count, first_not_taken
):
    parts = [dict(gpu(0), uuid=uuid) for uuid in ("MIG-a", "MIG-b")]
    machine.has(gpu(0), gpu(1))
    if "MIG" in names:
        machine.torch_finds(*parts)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    problem = refusal(-1)
    assert f"torch can use {count} GPU(s) of the {len(names.split(','))} that CUDA_VIS" in problem
    assert f": CUDA ignores '{first_not_taken}' and what follows" in problem
    assert len(usable_gpus(count)) == count


def test_names_of_no_card_are_an_error(machine, monkeypatch):
    machine.has(gpu(0))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "gpu-0")
    assert ": No CUDA GPUs are available with CUDA_VISIBLE_DEVICES=gpu-0; train" in refusal(-1)


# --- processes that compute ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "accelerator", "visible"),
    [
        ("cpu", "cpu", ""),
        ("cuda", "cuda", "0,1"),
        ("cuda:GPU-ab,GPU-cd", "cuda", "GPU-ab,GPU-cd"),
        ("cuda:3,1", "cuda", "3,1"),
        ("auto", None, "0,1"),
    ],
)
def test_a_process_takes_its_device_from_its_flag(monkeypatch, device, accelerator, visible):
    """The launcher has said 0,1, for two ranks."""
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(os, "environ", dict(os.environ))
    assert devices.DEVICE.fullmatch(device)
    take_device(device)
    assert os.environ.get("DS_ACCELERATOR") == accelerator
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


def test_who_asks_for_the_cpu_by_deepspeeds_variable_gets_no_gpu(monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    take_device("auto")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "" and device_type() == "cpu"


def test_a_process_without_a_card_computes_on_the_cpu(machine):
    assert device_type() == "cpu"


@pytest.mark.parametrize("is_promised", [False, True])
def test_a_process_never_falls_back_to_the_cpu(machine, monkeypatch, is_promised):
    """This torch, here, has no GPU; a card is listed, or a GPU was promised."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", None)
    if is_promised:
        monkeypatch.setenv("DS_ACCELERATOR", "cuda")
        expected = r"cannot use a GPU \(no NVIDIA driver\): it is built without CUDA; train on the"
    else:
        add_proc_card(machine.root, 0, "NVIDIA L4")
        expected = r"cannot use NVIDIA L4 \(.*\): it is built without CUDA .*; run `EXTREMEBERT"
    with pytest.raises(StageError, match=expected):
        device_type()


def test_a_rank_beyond_the_last_gpu_is_an_error(machine, monkeypatch):
    found = {"version": "2.13.0", "cuda": "13.0", "architectures": ["sm_80"], "problem": ""}
    found["gpus"] = [{"name": "NVIDIA L4", "capability": [8, 9], "problem": ""}]
    monkeypatch.setattr("pipeline.runtime.torch_probe.look", lambda numbers: found)
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    assert device_type(0) == "cuda"
    with pytest.raises(StageError, match=r"it finds 1 GPU\(s\), and needs one more"):
        device_type(1)
