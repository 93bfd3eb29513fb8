"""What pretraining reads may come from somebody else: it runs no code and leads nowhere else."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from configs.defaults import get_default_config
from dataset.samples.hdf5_files import count_samples
from pipeline.errors import StageError
from pipeline.store.atomic_files import write_json
from pipeline.store.checksums import file_digest
from pretrain.checkpoint_folders import RECORD, TENSORS, damage, list_checkpoints
from pretrain.checks import check_machine
from pretrain.engine.checkpoints import load_newest_checkpoint
from pretrain.engine.hostfile import read_hostfile
from pretrain.optimization.lr_curves import CurveShape
from pretrain.optimization.run_schedule import RunSchedule
from pretrain.training.data_loader import list_shards
from tests.malicious import malicious_pickle
from tests.pretrain.shards import write_dataset

SCRIPT = Path(__file__).resolve().parents[2] / "pretrain" / "run_pretraining.py"


def test_a_checkpoint_that_is_a_pickle_is_refused(tmp_path):
    path, marker = tmp_path / "step_0000005", tmp_path / "marker"
    path.mkdir()
    (path / TENSORS).write_bytes(malicious_pickle(marker))
    file = {"bytes": (path / TENSORS).stat().st_size, "digest": file_digest(path / TENSORS)}
    state = {"step": 5, "numbers": {}, "state": {"optimizer_type": "adamw"}}
    write_json(path / RECORD, state | file)
    assert damage(path) == ""  # it is what its record says
    schedule = RunSchedule("step", 10, "constant", CurveShape(), peak=1e-3)
    with pytest.raises(ValueError, match=r"step_0000005: .*header"):
        load_newest_checkpoint(None, tmp_path, "adamw", schedule, print)
    assert not marker.exists()


def test_a_copy_that_somebody_keeps_is_no_checkpoint(tmp_path):
    for name in ("step_0000005", "step_0000010", "step_0000005_good", "step_"):
        (tmp_path / name).mkdir()
    names = [path.name for path in list_checkpoints(tmp_path)]
    assert names == ["step_0000005", "step_0000010"]


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "dataset")


@pytest.mark.parametrize(
    ("shards", "said"),
    [
        ({"../elsewhere.hdf5": 7}, r"lists \.\./elsewhere\.hdf5, expected a file of that folder"),
        ({"/etc/passwd": 7}, "expected a file of that folder"),
        (["train_00000_00.hdf5"], "damaged, it lists no shards"),
    ],
)
def test_a_manifest_leads_nowhere_else(dataset, shards, said):
    (dataset.parent / "elsewhere.hdf5").write_bytes((dataset / "train_00000_00.hdf5").read_bytes())
    write_json(dataset / "manifest.json", {"inputs": {}, "results": {"train_shards": shards}})
    with pytest.raises(StageError, match=said):
        list_shards(dataset, "train")


def _external_link(file, other):
    del file["input_ids"]
    file["input_ids"] = h5py.ExternalLink(str(other), "input_ids")


def _external_storage(file, other):
    shape, dtype = file["input_ids"].shape, file["input_ids"].dtype
    del file["input_ids"]
    size = shape[0] * shape[1] * dtype.itemsize
    file.create_dataset("input_ids", shape, dtype, external=[(str(other), 0, size)])


def _virtual(file, other):
    layout = h5py.VirtualLayout(file["input_ids"].shape, file["input_ids"].dtype)
    layout[...] = h5py.VirtualSource(str(other), "input_ids", file["input_ids"].shape)
    del file["input_ids"]
    file.create_virtual_dataset("input_ids", layout)


@pytest.mark.parametrize("lead_away", [_external_link, _external_storage, _virtual])
def test_a_shard_holds_its_own_samples(dataset, lead_away):
    path = dataset / "train_00000_00.hdf5"
    with h5py.File(path, "r+") as file:
        lead_away(file, dataset / "train_00000_01.hdf5")
    with pytest.raises(StageError, match=r"train_00000_00\.hdf5: input_ids: no array of this file"):
        count_samples(path)


def test_a_users_folder_is_not_taken_for_the_output(dataset, tmp_path):
    model = tmp_path / "mine" / "model"
    model.mkdir(parents=True)
    (model / "weights").write_text("a model of another program")
    flags = [f"--dataset_path={dataset}", f"--output_dir={tmp_path / 'mine'}", "--max_steps=1"]
    command = [sys.executable, str(SCRIPT), *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "--output_dir: " in done.stderr and "it holds weights" in done.stderr
    assert [path.name for path in (tmp_path / "mine").rglob("*")] == ["model", "weights"]


def test_a_server_is_no_option_of_ssh(tmp_path):
    (tmp_path / "hosts").write_text("me@alpha-1.lab slots=1\nfe80::1 slots=1\n")
    assert list(read_hostfile(tmp_path / "hosts")) == ["me@alpha-1.lab", "fe80::1"]
    (tmp_path / "hosts").write_text("-oProxyCommand=touch${IFS}x slots=1\n")
    with pytest.raises(Exception, match="line 1: got '-oProxyCommand"):
        read_hostfile(tmp_path / "hosts")


def test_no_shell_of_another_server_reads_a_value(tmp_path):
    config = get_default_config()
    config.SYSTEM.NUM_GPUS = 0
    config.PRETRAIN.BATCH_SIZE = 4
    config.WANDB.PROJECT = "mine; touch x"
    (tmp_path / "hosts").write_text("localhost slots=2\n")
    config.SYSTEM.HOSTFILE = str(tmp_path / "hosts")
    check_machine(config)  # argument lists all the way
    (tmp_path / "hosts").write_text("alpha slots=2\n")
    with pytest.raises(Exception, match=r"WANDB\.PROJECT: a shell .*got 'mine; touch x'"):
        check_machine(config)
    config.WANDB.PROJECT = "my project, 2nd"
    check_machine(config)


def test_what_a_dataset_brings_along_is_not_exported(dataset, tmp_path):
    """Who uses a model may run the code in its folder; it is ours, then, not the dataset's."""
    from pretrain.model.export import _write_tokenizer

    (dataset / "tokenizer" / "modeling_extremebert.py").write_text("evil")
    (dataset / "tokenizer" / "config.json").write_text('{"auto_map": "evil"}')
    settings = dataset / "tokenizer" / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"auto_map": "evil"}))
    (tmp_path / "model").mkdir()
    for name in ("modeling_extremebert.py", "config.json"):
        (tmp_path / "model" / name).write_text("{}")
    _write_tokenizer(dataset / "tokenizer", tmp_path / "model", 16, True)
    written = [path.read_text() for path in (tmp_path / "model").iterdir()]
    assert (tmp_path / "model" / "tokenizer.json").exists()
    assert not any("evil" in text for text in written)
