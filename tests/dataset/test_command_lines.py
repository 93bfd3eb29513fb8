"""The manual's commands; one test starts them as a user does, the others run in this process."""

import gzip
import json
import random
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dataset.samples.hdf5_files import read_samples

ROOT = Path(__file__).parents[2]
SHARD_FLAGS = shlex.split("--num_train_shards 2 --num_test_shards 1 --frac_test 0.1 --max_memory 4")
SAMPLE_FLAGS = shlex.split(
    "--dup_factor 2 --seed 42 --do_lower_case 1 --masked_lm_prob 0.15 --max_seq_length 32 "
    "--max_predictions_per_seq 5 --n_processes 1 --model_name bert-large-uncased"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "prefix", "suffix"),
    [(ROOT, "-m dataset.", ""), (ROOT, "dataset/", ".py"), (ROOT / "dataset", "", ".py")],
)
@pytest.mark.parametrize("name", ["shard_data", "generate_samples", "process_data", "merge_shards"])
def test_each_command_starts_from_anywhere(tmp_path, folder, prefix, suffix, name):
    arguments = [*f"{prefix}{name}{suffix}".split(), "--help"]
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and f"usage: {name}.py" in done.stdout, done.stderr


@pytest.mark.slow
def test_both_commands(corpus, vocabulary, tmp_path):
    def command(name, *arguments):
        done = subprocess.run(
            [sys.executable, f"{name}.py", *map(str, arguments)],
            cwd=ROOT / "dataset", capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    shards, samples = tmp_path / "shards", tmp_path / "samples"
    sharding = ["--output_dir", shards, *SHARD_FLAGS, "--dataset", "custom", corpus]
    sharding += ["--n_processes", "1"]
    sampling = ["--dir", shards, "-o", samples, *SAMPLE_FLAGS, "--tokenizer_name", vocabulary]
    command("shard_data", *sharding)
    assert "300 articles" in (tmp_path / "shards.log").read_text()
    assert {path.name for path in shards.glob("t*.txt")} == {
        "train_00000.txt", "train_00001.txt", "test_00000.txt",
    }  # fmt: skip
    assert "[MASK]" in command("generate_samples", *sampling)
    names = {path.name for path in samples.glob("*.hdf5")}
    assert len(names) == 5 and "train_00001_01.hdf5" in names
    results = json.loads((samples / "manifest.json").read_text())["results"]
    assert (
        len(read_samples(samples / "test_00000.hdf5")["input_ids"]) == results["num_test_samples"]
    )
    assert "up to date" in command("shard_data", *sharding)
    assert "up to date" in command("generate_samples", *sampling)


@pytest.mark.slow
def test_several_sources(command, corpus, tmp_path):
    (tmp_path / "json").mkdir()
    (tmp_path / "json/a.jsonl").write_text('{"text": "A row."}\n{"text": "Another row."}\n')
    flags = ["--output_dir", tmp_path / "out", *SHARD_FLAGS, "--n_processes", "1"]
    flags += ["--dataset", "custom", corpus, "--dataset", tmp_path / "json", "default"]
    done = command("shard_data", *flags)
    assert done.returncode == 0, done.stderr
    assert "302 articles" in done.stdout


def test_combinations_and_too_little_memory_are_refused_by_the_names_of_the_flags(
    command, corpus, tmp_path
):
    flags = "--packing 1 --next_sentence_prediction 1 --max_seq_length 16 --random_token_share 0.3"
    places = ["--dir", corpus, "-o", tmp_path / "out"]
    done = command("generate_samples", *places, *flags.split())
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "--max_predictions_per_seq: more than a sample has tokens, got 20, expected at most "
        "--max_seq_length - 2 = 14",
        "--packing: cannot be combined with --next_sentence_prediction, got both, expected one of "
        "them",
        "--random_token_share: more than all tokens, got 0.3 with --mask_token_share 0.8, expected "
        "a sum of at most 1",
    ]
    flags = ["--output_dir", tmp_path / "out", "--dataset", "custom", corpus]
    done = command("shard_data", *flags, "--max_memory", "0.1")
    assert done.returncode == 2 and done.stderr.startswith("--max_memory: too little")
    done = command("shard_data", *flags, "--dataset", "custom", corpus / "a.txt")
    assert done.returncode == 2 and "expected each text once" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_folder_is_free_after_an_attempt_that_failed(command, corpus, tmp_path):
    text = shutil.copytree(corpus, tmp_path / "text")
    damaged = text / "c.txt.gz"
    damaged.write_bytes(gzip.compress(random.Random(0).randbytes(200_000))[:150_000])
    flags = ["--output_dir", tmp_path / "out", *SHARD_FLAGS]
    flags += ["--dataset", "custom", text, "--n_processes", "1"]
    done = command("shard_data", *flags)
    assert done.returncode == 3 and "c.txt.gz: damaged" in done.stderr
    damaged.unlink()
    assert command("shard_data", *flags).returncode == 0
    (tmp_path / "out/train_00001.txt").unlink()
    assert "up to date" not in command("shard_data", *flags).stdout
    assert (tmp_path / "out/train_00001.txt").exists()


def test_a_folder_of_the_users_is_left_alone(command, corpus, tmp_path):
    mine = shutil.copytree(corpus, tmp_path / "mine")
    done = command("process_data", "-f", corpus, "--type", "bookcorpus", "-o", mine)
    assert done.returncode == 2 and "mine was not made by this program (it holds a" in done.stderr
    assert sorted(path.name for path in mine.iterdir()) == ["a.txt", "b.txt"]


@pytest.mark.slow
def test_errors_have_exit_codes_and_one_line(command, corpus, vocabulary, tmp_path):
    missing = ["--dataset", "custom", tmp_path / "gone"]
    done = command("shard_data", "--output_dir", tmp_path / "out", *missing)
    assert done.returncode == 2 and "--dataset custom: folder" in done.stderr
    assert not (tmp_path / "out").exists()
    done = command("generate_samples", "--dir", corpus, "-o", tmp_path / "out")
    assert done.returncode == 2 and "no train_*.txt" in done.stderr
    (tmp_path / "train_00000.txt").write_text("A cat.\n\n")
    (tmp_path / "test_00000.txt").write_text("")
    flags = ["--dir", tmp_path, "-o", tmp_path / "out", "--tokenizer_name", vocabulary]
    done = command("generate_samples", *flags, "--n_processes", "1")
    assert done.returncode == 3 and "test part of the corpus has no tokens" in done.stderr
    done = command("generate_samples", *flags, "--seed", "7")
    assert done.returncode == 2 and "was made with other settings" in done.stderr
