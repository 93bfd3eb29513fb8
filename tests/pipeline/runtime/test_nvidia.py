"""What the system lists, on faked machines."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.runtime import nvidia
from pipeline.runtime.nvidia import Card, System, has_kernels, read_system
from tests.pipeline.machines import (
    A100,
    V100,
    add_devices,
    add_driver,
    add_proc_card,
    add_program,
    add_smi,
)

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def only_the_fake_smi(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")


def test_a_machine_without_nvidia(tmp_path):
    assert read_system(tmp_path) == System()


def test_nvidia_smi_tells_all(tmp_path):
    add_driver(tmp_path, "535.129.03")
    add_proc_card(tmp_path, 0, "Tesla V100-SXM2-16GB")
    add_smi(tmp_path / "bin", "535.129.03", [V100, A100])
    assert read_system(tmp_path) == System(
        "535.129.03",
        (Card("Tesla V100-SXM2-16GB", (7, 0)), Card("NVIDIA A100-SXM4-80GB", (8, 0))),
    )


def test_an_old_nvidia_smi_knows_no_capability(tmp_path):
    add_smi(tmp_path / "bin", "470.57.02", [V100], knows_capability=False)
    system = read_system(tmp_path)
    assert (system.driver, system.problem) == ("470.57.02", "")
    assert system.cards == (Card("Tesla V100-SXM2-16GB"),)


def test_what_nvidia_smi_cannot_tell_is_unknown(tmp_path):
    add_smi(tmp_path / "bin", "580.65.06", ["NVIDIA GB10, [N/A]"])
    assert read_system(tmp_path).cards == (Card("NVIDIA GB10"),)


def test_where_nvidia_smi_fails_the_kernel_lists_the_cards(tmp_path):
    """An update has replaced the libraries; the module that is loaded is still the old one."""
    add_driver(tmp_path, "550.54.14")
    add_proc_card(tmp_path, 0, "NVIDIA A100-SXM4-80GB")
    add_devices(tmp_path, "nvidia0", "nvidiactl", "nvidia-uvm")
    mismatch = "Failed to initialize NVML: Driver/library version mismatch"
    add_program(tmp_path / "bin", f"echo '{mismatch}'\nexit 18\n")
    assert read_system(tmp_path) == System(
        "550.54.14", (Card("NVIDIA A100-SXM4-80GB"),), f"nvidia-smi: {mismatch}"
    )


def test_an_nvidia_smi_that_hangs_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(nvidia, "SMI_SECONDS", 0.2)
    add_program(tmp_path / "bin", "exec sleep 30\n")
    add_devices(tmp_path, "nvidia0")
    begin = time.monotonic()
    system = read_system(tmp_path)
    assert time.monotonic() - begin < 5
    assert system.cards == (Card("unnamed GPU"),)
    assert "no answer" in system.problem


def test_the_open_kernel_module_names_its_version_elsewhere(tmp_path):
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (a@b)\n"
    )
    assert read_system(tmp_path).driver == "570.86.15"


def test_a_container_has_the_cards_that_it_has_devices_of(tmp_path):
    """/proc lists all cards of the host."""
    for minor in range(4):
        add_proc_card(tmp_path, minor, f"card {minor}")
    add_devices(tmp_path, "nvidia2", "nvidiactl")
    assert read_system(tmp_path).cards == (Card("card 2"),)


def test_cards_whose_devices_are_not_made_yet_are_listed(tmp_path):
    add_proc_card(tmp_path, 0, "card 0")
    add_proc_card(tmp_path, 1, "card 1")
    assert [card.name for card in read_system(tmp_path).cards] == ["card 0", "card 1"]


def test_wsl_has_no_proc_and_its_nvidia_smi_need_not_be_on_path(tmp_path):
    add_devices(tmp_path, "dxg")
    assert read_system(tmp_path) == System()  # a GPU of another maker
    (tmp_path / nvidia.WSL).mkdir(parents=True)
    (tmp_path / nvidia.WSL / "libcuda.so.1").touch()
    assert read_system(tmp_path).cards == (Card("GPU of Windows"),)
    add_smi(tmp_path / nvidia.WSL, "552.22", ["NVIDIA GeForce RTX 4090, 8.9"])
    system = read_system(tmp_path)
    assert system == System("552.22", (Card("NVIDIA GeForce RTX 4090", (8, 9)),))


def test_a_container_on_wsl_has_the_driver_elsewhere(tmp_path):
    """nvidia-container-toolkit gives it libdxcore.so and the folder of the driver's files."""
    add_devices(tmp_path, "dxg")
    (tmp_path / nvidia.WSL).mkdir(parents=True)
    (tmp_path / nvidia.WSL / "libdxcore.so").touch()
    assert not nvidia.lists_cards(tmp_path)
    driver = tmp_path / "usr/lib/wsl/drivers/nv_dispi.inf_amd64_0123456789abcdef"
    driver.mkdir(parents=True)
    (driver / "libcuda.so.1.1").touch()
    assert nvidia.lists_cards(tmp_path)


@pytest.mark.parametrize(
    ("vendor", "kind", "is_gpu"),
    [
        ("0x10de", "0x030000", True),
        ("0x10de", "0x030200", True),  # "3D controller": a card without a display
        ("0x10de", "0x040300", False),  # its sound device
        ("0x1002", "0x030000", False),  # AMD's
    ],
)
def test_a_gpu_without_a_driver_is_on_the_pci_bus(tmp_path, vendor, kind, is_gpu):
    device = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")
    assert nvidia.is_on_pci_bus(tmp_path) is is_gpu
    assert not nvidia.lists_cards(tmp_path)


# Of the wheels of torch 2.13.0 for CUDA 13 and of one for CUDA 12.6.
CUDA_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
CUDA_126 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]


@pytest.mark.parametrize(
    ("capability", "architectures", "fits"),
    [
        ((7, 0), CUDA_13, False),  # V100
        ((7, 0), CUDA_126, True),
        ((6, 1), CUDA_126, True),  # GTX 1080: sm_60 of the same major version
        ((8, 9), CUDA_13, True),  # RTX 4090: sm_86
        ((8, 0), ["sm_86"], False),  # made for a later one
        ((12, 0), CUDA_126, False),  # RTX 5090
        ((12, 0), [*CUDA_126, "compute_90"], True),  # compiled from PTX when it runs
        ((12, 1), CUDA_13, True),
        ((10, 3), ["sm_90a", "sm_100a"], False),  # of the one architecture alone
        ((9, 0), ["sm_90a"], True),
        ((10, 3), ["sm_100f"], True),
        ((11, 0), ["sm_100f"], False),
        ((9, 0), [], False),  # a build for the CPU
    ],
)
def test_kernels_run_on_later_cards_of_their_major_version(capability, architectures, fits):
    assert has_kernels(capability, architectures) == fits


def test_it_asks_with_the_standard_library_alone():
    code = (
        "import sys; sys.path.insert(0, '.'); import pipeline.runtime.nvidia as n; n.read_system()"
    )
    subprocess.run([sys.executable, "-S", "-I", "-c", code], cwd=PROJECT, check=True)
