"""Where ranks go, on faked machines: which GPUs, by which words, and what is refused."""

import json
import os
import subprocess
import sys
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest

from configs.defaults import get_default_config
from pipeline.errors import ConfigError
from pipeline.runtime.devices import Gpu
from pretrain import launch
from pretrain.checks import check_machine
from pretrain.engine.placement import expects_gpus, place_ranks
from pretrain.engine.ports import free_port
from pretrain.launch import launch_command, launch_environment, launcher_words
from tests.pipeline.machines import OLD_DRIVER, Machine, gpu
from tests.plans import pretrain_estimate
from tests.small_pipeline import write_pipeline

PROJECT = Path(__file__).resolve().parents[3]
T4 = {"name": "Tesla T4", "capability": (7, 5)}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "node7.cluster")
    return Machine(tmp_path, monkeypatch)


@pytest.fixture
def config(tmp_path):
    config = get_default_config()
    config.PRETRAIN.BATCH_SIZE = 48
    config.DATASET.CUSTOMIZED_DATASETS = [str(tmp_path)]
    return config


def hostfile(config, tmp_path, text):
    (tmp_path / "hosts").write_text(text)
    config.SYSTEM.HOSTFILE = str(tmp_path / "hosts")


def here(number):
    """Slots of this machine alone."""
    slots = json.dumps({"localhost": list(range(number))})
    world_info = f"--world_info={urlsafe_b64encode(slots.encode()).decode()}"
    return "deepspeed.launcher.launch", world_info, "--master_addr=127.0.0.1"


def words(config):
    """The launcher's options, the ranks' flag, and the two variables that the launcher gets."""
    place = place_ranks(config)
    environment = launch_environment(config, place)
    variables = environment["DS_ACCELERATOR"], environment.get("CUDA_VISIBLE_DEVICES")
    return launcher_words(config.SYSTEM.HOSTFILE, place.num_ranks), place.device, variables


BLIND = ("cpu", "")  # the launcher itself


def test_without_a_card_there_is_one_rank_on_the_cpu(machine, config):
    assert words(config) == (here(1), "cpu", BLIND)
    assert str(place_ranks(config)) == "the CPU" and not expects_gpus(config)


def test_all_gpus_or_the_first_ones(machine, config):
    machine.has(gpu(0), gpu(1), gpu(2))
    assert expects_gpus(config)
    assert words(config) == (here(3), "cuda", BLIND)
    assert str(place_ranks(config)) == "3 GPU(s), NVIDIA A100-SXM4-80GB"
    config.SYSTEM.NUM_GPUS = 2
    assert words(config) == (here(2), "cuda", BLIND)
    config.SYSTEM.NUM_GPUS = 0
    assert words(config) == (here(1), "cpu", BLIND) and not expects_gpus(config)


@pytest.mark.parametrize(
    ("visible", "asked", "device"),
    [
        ("GPU-2,GPU-0", -1, "cuda:GPU-2,GPU-0"),
        ("GPU-2abc, GPU-0abc", 1, "cuda:GPU-2abc"),
        ("2,0", -1, "cuda:2,0"),  # the launcher's --include would sort them
        ("2,0", 1, "cuda:2"),
        ("MIG-ab", -1, "cuda:MIG-ab"),
        ("", -1, "cpu"),
    ],
)
def test_ranks_get_the_cards_that_are_named(machine, config, monkeypatch, visible, asked, device):
    machine.has(gpu(0), gpu(1), gpu(2))
    if "MIG" in visible:
        machine.torch_finds(dict(gpu(0), uuid="MIG-ab"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    config.SYSTEM.NUM_GPUS = asked
    assert words(config) == (here(device.count(",") + 1), device, BLIND)


RANK = """
import os, sys
sys.path.insert(0, {project!r})
from pipeline.runtime.devices import take_device
from pretrain.flags import parse_flags
take_device(parse_flags([*sys.argv[1:], "--dataset_path=d", "--output_dir=o"]).device)
seen = [os.environ[name] for name in ("LOCAL_RANK", "CUDA_VISIBLE_DEVICES", "DS_ACCELERATOR")]
os.write(1, (" ".join(seen) + os.linesep).encode())
"""


@pytest.mark.slow
def test_the_launcher_leaves_the_ranks_their_cards(tmp_path, monkeypatch, config):
    """Through DeepSpeed's own launcher, which sets CUDA_VISIBLE_DEVICES to 0,1."""
    script = tmp_path / "rank.py"
    script.write_text(RANK.format(project=str(PROJECT)))
    monkeypatch.setattr(launch, "SCRIPT", script)
    config.SYSTEM.NUM_GPUS = 0
    devices = launcher_words("", 2)
    command = launch_command({"device": "cuda:GPU-2,GPU-0"}, devices, free_port())
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "5,6"}
    environment |= launch_environment(config, place_ranks(config))
    done = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, env=environment, timeout=200
    )
    ranks = sorted(line for line in done.stdout.splitlines() if "GPU-" in line)
    assert ranks == ["0 GPU-2,GPU-0 cuda", "1 GPU-2,GPU-0 cuda"], done.stdout + done.stderr


# --- hostfiles -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "node7", "node7.cluster"])
def test_a_hostfile_of_this_machine(machine, config, tmp_path, monkeypatch, name):
    hostfile(config, tmp_path, f"{name} slots=2\n")
    assert words(config) == (here(2), "cpu", BLIND)  # there is no card
    assert str(place_ranks(config)) == "the CPU, in 2 processes"
    machine.has(gpu(0), gpu(1), gpu(2))
    assert words(config) == (here(2), "cuda", BLIND)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-2,GPU-1,GPU-0")
    assert words(config) == (here(2), "cuda:GPU-2,GPU-1", BLIND)
    config.SYSTEM.NUM_GPUS = 0
    assert words(config) == (here(2), "cpu", BLIND)


def test_more_slots_than_gpus_are_an_error(machine, config, tmp_path, monkeypatch):
    machine.has(gpu(0), gpu(1), gpu(2))
    hostfile(config, tmp_path, "localhost slots=4\n")
    with pytest.raises(ConfigError, match=r"^SYSTEM\.HOSTFILE: .* got 4, expected at most 3 "):
        place_ranks(config)
    hostfile(config, tmp_path, "localhost slots=2\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-2")
    with pytest.raises(ConfigError, match=r"got 2, expected at most 1 "):
        place_ranks(config)


@pytest.mark.parametrize("text", ["node8.cluster slots=8\n", "node7 slots=4\nnode8 slots=4\n"])
def test_a_slot_of_other_servers_is_a_gpu(machine, config, tmp_path, text):
    """Whatever this machine has, and however many NUM_GPUS takes of one."""
    hostfile(config, tmp_path, text)
    servers = "deepspeed.launcher.runner", "--hostfile", str(tmp_path / "hosts"), "--force_multi"
    for asked in (-1, 8):
        config.SYSTEM.NUM_GPUS = asked
        assert place_ranks(config).num_ranks == 8 and expects_gpus(config)
        assert words(config) == (servers, "cuda", ("cuda", None))
    config.SYSTEM.NUM_GPUS = 0
    assert words(config) == (servers, "cpu", BLIND) and not expects_gpus(config)


# --- refused -------------------------------------------------------------------------------------


def test_bf16_that_the_gpu_only_emulates_is_refused(machine, config):
    machine.has(gpu(0), gpu(1, **T4))
    config.PRETRAIN.PRECISION = "bf16"
    with pytest.raises(ConfigError) as found:
        check_machine(config)
    assert found.value.problems == [
        "PRETRAIN.PRECISION: Tesla T4 only emulates bf16, got bf16, expected fp16 (as auto takes)"
    ]
    config.SYSTEM.NUM_GPUS = 1  # the A100
    check_machine(config)
    config.SYSTEM.NUM_GPUS = 0
    check_machine(config)


def test_a_card_that_torch_cannot_use_stops_the_plan(machine, config):
    machine.has(gpu(0), driver="535.129.03", driver_error=OLD_DRIVER)
    with pytest.raises(ConfigError, match=r"^SYSTEM\.NUM_GPUS: torch .*; run `TORCH_INDEX_URL="):
        check_machine(config)
    assert Gpu("NVIDIA A100-SXM4-80GB", (8, 0)).computes_in_bf16


def test_a_gpu_without_its_driver_is_noted(machine, config, tmp_path, monkeypatch):
    (tmp_path / "corpus.txt").write_text("A sentence.\n")
    config.TOKENIZER.TRAIN = True
    monkeypatch.setattr("pipeline.runtime.devices.is_on_pci_bus", lambda: True)
    note = "on the CPU: the driver of this machine's NVIDIA GPU is not loaded"
    assert note in pretrain_estimate(config).notes
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert note not in pretrain_estimate(config).notes
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    machine.has(gpu(0))
    assert note not in pretrain_estimate(config).notes


# --- main.py -------------------------------------------------------------------------------------

PATCHED = """
import sys
from pipeline.runtime import devices
from pipeline.runtime.devices import Gpu, Torch
devices.lists_cards = lambda: True
devices.ask_torch = lambda: Torch("2.13.0", "13.0", ("sm_80",), {gpus}, {problem!r})
import main
sys.exit(main.main(sys.argv[1:]))
"""
ONE = '(Gpu("NVIDIA A100-SXM4-80GB", (8, 0)),)'


def patched_main(folder, root, gpus, problem, *arguments):
    command = [sys.executable, "-c", PATCHED.format(gpus=gpus, problem=problem)]
    command += ["--config", str(folder / "config.yaml"), "--output-root", str(folder / root)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    return subprocess.run(
        [*command, *arguments, "SYSTEM.NUM_GPUS", "-1"],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    write_pipeline(folder)
    return folder


@pytest.mark.slow
def test_a_gpu_that_is_not_there_ends_main_with_one_sentence_and_no_model(folder):
    """What the plan was told was wrong; no rank trains on the CPU instead."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = patched_main(folder, "root", ONE, "", "--stages", "dataset,pretrain")
    assert done.returncode == 3
    assert "on 1 GPU(s), NVIDIA A100-SXM4-80GB in fp16" in done.stdout
    failure, log = done.stderr.splitlines()
    assert failure.startswith("pretrain failed: ") and log.startswith("log: ")
    assert "error: torch 2.13.0" in failure and " cannot use " in failure
    assert failure.endswith("(SYSTEM.NUM_GPUS: 0, or DS_ACCELERATOR=cpu without main.py)")
    assert not list((folder / "root" / "saved_models").rglob("model"))


@pytest.mark.slow
def test_a_card_that_torch_cannot_use_ends_the_plan_too(folder):
    problem = "The NVIDIA driver on your system is too old (found version 12020)"
    for more in ([], ["--dry-run"]):
        done = patched_main(folder, "none", "()", problem, *more)
        assert done.returncode == 3 and done.stdout == "" and not (folder / "none").exists()
        [line] = done.stderr.splitlines()
        assert line.startswith("SYSTEM.NUM_GPUS: torch 2.13.0 for CUDA 13.0 cannot use ")
        assert f": {problem}; " in line and line.endswith("without main.py)")
