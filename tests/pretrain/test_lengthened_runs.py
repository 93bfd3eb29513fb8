"""Real runs: one that is lengthened ends with the bits of one of that length from the start."""

import json
from pathlib import Path

import pytest

from dataset.stage import prepare_dataset
from pipeline.errors import ConfigError
from pretrain.checkpoint_folders import RECORD, STABLE, checkpoint_dir, list_checkpoints, step_of
from pretrain.engine.interrupts import Interrupted, Interrupts
from pretrain.flags import parse_flags
from pretrain.run_pretraining import InputError, run
from pretrain.stage import pretrain
from pretrain.training.metrics_file import MetricsLog, read_metrics
from tests.plans import pretrain_artifact
from tests.pretrain.shards import write_dataset
from tests.pretrain.test_pretrain_stage import small_config, write_corpus

pytestmark = pytest.mark.slow

TIMED = (
    *("samples_per_second", "tokens_per_second", "elapsed_seconds"),
    *("peak_share", "waiting_share"),
)
WEIGHTS = Path("model") / "model.safetensors"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture
def train(dataset, tmp_path, device, one_thread):
    """Trains in a folder, in this process, with more flags; returns the folder."""

    def train(name, *flags, interrupt_at=-1):
        small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        small |= {"intermediate_size": 64, "train_batch_size": 8, "print_steps": 5}
        small |= {"checkpoint_steps": 5, "validation_steps": 10, "warmup_proportion": 0}
        small |= {"train_micro_batch_size_per_gpu": 4}
        output, interrupts = tmp_path / name, Interrupts()
        words = [f"--{name}={value}" for name, value in small.items()]
        args = parse_flags([f"--dataset_path={dataset}", f"--output_dir={output}", *words, *flags])

        def watch(training):
            interrupts.signum = 15 * (training.budget.step == interrupt_at)

        run(args, device, MetricsLog(output / "metrics.jsonl"), interrupts, watch)
        return output

    return train


def metrics(output):
    lines = read_metrics(output / "metrics.jsonl")
    return [{key: line[key] for key in line if key not in TIMED} for line in lines]


def assert_same_end(output, expected):
    assert (output / WEIGHTS).read_bytes() == (expected / WEIGHTS).read_bytes()
    for ours, theirs in zip(metrics(output), metrics(expected), strict=True):
        # Shares of runs of other lengths round the rate in its last digit; no weight sees it.
        assert ours.pop("lr", 0) == pytest.approx(theirs.pop("lr", 0), rel=1e-12)
        assert ours == theirs


@pytest.mark.parametrize(
    ("curve", "before", "after", "resumed"),
    [
        ("constant", (20, 0), (40, 0), 20),
        ("constant", (20, 0.3), (40, 0.15), 20),
        ("wsd", (20, 0), (40, 0), 16),
        ("wsd_linear", (20, 0.3), (30, 0.2), 16),  # rates equal up to rounding alone
        ("elastic_step_decay", (20, 0), (40, 0), 15),  # before the first fall
        ("linear", (40, 0), (40, 0), 40),
    ],
)
def test_lengthened_it_is_the_longer_run(train, capsys, curve, before, after, resumed):
    flags = [
        (f"--curve={curve}", f"--max_steps={steps}", f"--warmup_proportion={warmup}")
        for steps, warmup in (before, after)
    ]
    expected = train("whole", *flags[1])
    output = train("lengthened", *flags[0])
    capsys.readouterr()
    train("lengthened", *flags[1])
    assert f"resuming from the checkpoint of step {resumed}\n" in capsys.readouterr().out
    assert_same_end(output, expected)


def test_a_constant_rate_may_end_in_a_decay(train):
    expected = train("whole", "--curve=wsd", "--max_steps=25")
    output = train("lengthened", "--curve=constant", "--max_steps=20")
    train("lengthened", "--curve=wsd", "--max_steps=25")
    assert_same_end(output, expected)


def test_killed_in_its_lengthening_a_run_ends_the_same(train):
    """First the checkpoints of the decay are newer than those of the longer run."""
    expected = train("whole", "--curve=wsd", "--max_steps=40")
    output = train("lengthened", "--curve=wsd", "--max_steps=20")
    for step in (16, 18, 33):
        with pytest.raises(Interrupted):
            train("lengthened", "--curve=wsd", "--max_steps=40", interrupt_at=step)
    train("lengthened", "--curve=wsd", "--max_steps=40")
    assert_same_end(output, expected)


def test_the_checkpoint_before_the_decay_is_kept(train):
    output = train("run", "--curve=wsd", "--max_steps=20", "--keep_checkpoints=1")
    folder = output / "checkpoints"
    assert step_of(folder / STABLE) == 16
    assert checkpoint_dir(folder, 15) not in list_checkpoints(folder)
    train("run", "--curve=wsd", "--max_steps=40", "--keep_checkpoints=1")
    assert step_of(folder / STABLE) == 32
    constant = train("other", "--curve=linear", "--max_steps=20") / "checkpoints"
    assert not (constant / STABLE).exists()


@pytest.mark.parametrize("unit", ["time", "tokens"])
def test_it_is_kept_in_runs_of_other_lengths_too(train, unit):
    length = {"time": "--total_training_time=0.0005", "tokens": "--max_tokens=1500"}[unit]
    output = train("run", "--curve=wsd", f"--lr_schedule={unit}", length, "--checkpoint_steps=0")
    lines = [line for line in metrics(output) if line["kind"] == "train"]
    stable = step_of(output / "checkpoints" / STABLE)
    assert 0 < stable < lines[-1]["step"]
    record = json.loads((output / "checkpoints" / STABLE / RECORD).read_text())
    assert record["state"]["last_begin"] <= 0.8 * record["state"]["schedule"]["length"]
    more = {"time": "--total_training_time=0.001", "tokens": "--max_tokens=3000"}[unit]
    train("run", "--curve=wsd", f"--lr_schedule={unit}", more, "--checkpoint_steps=0")
    assert step_of(output / "checkpoints" / STABLE) > stable
    for line in metrics(output):
        if line["kind"] == "train" and line["step"] <= stable:
            assert line["lr"] == 1e-3


@pytest.mark.parametrize("curve", ["linear", "elastic_step_decay", "cosine"])
def test_other_curves_are_refused_before_a_step(train, curve):
    output = train("run", f"--curve={curve}", "--max_steps=20", "--checkpoint_steps=0")
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"in step \d+ the learning rate was .*--start_from"):
        train("run", f"--curve={curve}", "--max_steps=40")
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_another_peak_is_told(train, capsys):
    train("run", "--curve=constant", "--max_steps=5")
    train("run", "--curve=constant", "--max_steps=10", "--lr=5e-4")
    assert "WARNING: --lr was 0.001 up to there, and is 0.0005 now" in capsys.readouterr().out


def test_a_lengthened_run_of_the_pipeline(tmp_path, monkeypatch):
    """With another name from the start, the same bits; the finished model stays at hand."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "corpus").mkdir()
    config = small_config(write_corpus(tmp_path / "corpus"), tmp_path)
    config.PRETRAIN.update({"ID": "mine", "NUM_STEPS": 20, "LR_CURVE": "wsd"})
    prepare_dataset(config)
    pretrain(config)
    directory = pretrain_artifact(config).directory
    shorter = (directory / WEIGHTS).read_bytes()
    config.PRETRAIN.NUM_STEPS = 40
    with pytest.raises(ConfigError, match=r"PRETRAIN\.WARMUP_PROPORTION 0\.03 keeps"):
        pretrain(config)
    assert (directory / WEIGHTS).read_bytes() == shorter
    config.PRETRAIN.WARMUP_PROPORTION = 0.03
    assert pretrain_artifact(config).status().state == "extended"
    pretrain(config)
    assert pretrain_artifact(config).status().done
    kept = directory / "models_at" / "20steps" / "model.safetensors"
    assert kept.read_bytes() == shorter
    assert read_metrics(kept.with_name("metrics.jsonl"))[-1]["step"] == 20
    config.PRETRAIN.ID = "whole"
    pretrain(config)
    whole = pretrain_artifact(config)
    assert (directory / WEIGHTS).read_bytes() == (whole.directory / WEIGHTS).read_bytes()
    assert whole.fingerprint == pretrain_artifact(config).fingerprint
