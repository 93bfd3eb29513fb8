"""The whole stage: contents, resuming after a kill, identity, errors."""

import gzip
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from dataset.samples.hdf5_files import MASK_ARRAYS, ROW_ARRAYS, read_masking, read_samples
from dataset.sources.registry import local_files
from dataset.stage import prepare_dataset
from dataset.tokenizers.load import load_tokenizer
from pipeline.errors import ConfigError, StageError
from tests.damage import flip_byte
from tests.dataset.dataset_helpers import files_of, token_stream
from tests.plans import dataset_artifact, dataset_estimate

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def prepare(config):
    prepare_dataset(config)
    artifact = dataset_artifact(config)
    assert artifact.status().done
    return artifact


@pytest.fixture(scope="module")
def finished_roots(tmp_path_factory):
    """A folder, and the output root of each dataset made there, by fingerprint."""
    return tmp_path_factory.mktemp("finished"), {}


@pytest.fixture
def made(finished_roots):
    """Returns a function like `prepare` that copies a dataset made for another test."""
    folder, roots = finished_roots

    def make(config):
        artifact = dataset_artifact(config)
        if artifact.fingerprint not in roots:
            elsewhere = config.clone()
            elsewhere.SYSTEM.OUTPUT_ROOT = str(folder / artifact.fingerprint)
            prepare(elsewhere)
            roots[artifact.fingerprint] = elsewhere.SYSTEM.OUTPUT_ROOT
        shutil.copytree(roots[artifact.fingerprint], config.SYSTEM.OUTPUT_ROOT)
        assert artifact.status().done
        return artifact

    return make


def tokens_of_text(shard, tokenizer_dir):
    lines = [line for line in shard.read_text().split("\n") if line]
    encoded = load_tokenizer(tokenizer_dir).encode(lines)
    return [token for ids in encoded for token in ids]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"MASKING": "dynamic"},
        {"PACKING": True},
        {"PACKING": True, "MASKING": "dynamic"},
        {"WHOLE_WORD_MASKING": True},
    ],
    ids=str,
)
def test_samples_hold_every_token_of_the_corpus_in_order(config, articles, changes):
    for key, value in changes.items():
        config.DATASET[key] = value
    artifact = prepare(config)
    results = artifact.manifest["results"]
    num_articles = num_tokens = 0
    for shard in sorted(artifact.parts[0].glob("t*.txt")):
        expected = tokens_of_text(shard, artifact.directory / "tokenizer")
        files = sorted(artifact.directory.glob(f"{shard.stem}*.hdf5"))
        static = config.DATASET.MASKING == "static"
        assert len(files) == (2 if static and shard.stem.startswith("train") else 1)
        assert all(token_stream(path) == expected for path in files)
        num_tokens += len(expected)
        num_articles += shard.read_text().count("\n\n")
    assert num_articles == len(articles)
    assert results["num_tokens"] == num_tokens


def test_copies_differ_in_their_masks_alone(config, made):
    directory = made(config).directory
    first, second = (read_samples(directory / f"train_00000_0{copy}.hdf5") for copy in (0, 1))
    assert (first["input_mask"] == second["input_mask"]).all()
    assert (first["masked_lm_positions"] != second["masked_lm_positions"]).any()


def test_next_sentence_samples(config):
    config.DATASET.NEXT_SENTENCE_PREDICTION = True
    artifact = prepare(config)
    samples = read_samples(artifact.directory / "train_00000_00.hdf5")
    assert 0.3 < samples["next_sentence_labels"].mean() < 0.8
    assert (samples["segment_ids"] <= samples["input_mask"]).all() and samples["segment_ids"].any()


def test_dynamic_masking_takes_less_room_and_is_masked_by_the_loader(config, made):
    config.DATASET.MASKING = "dynamic"
    artifact = made(config)
    results = artifact.manifest["results"]
    assert sum(results["train_shards"].values()) == results["num_train_samples"]
    assert read_masking(artifact.directory).mask_id == 4
    assert "masked_lm_ids" in read_samples(artifact.directory / "test_00000.hdf5")
    config.DATASET.DUP_FACTOR = 7  # has no meaning here
    assert dataset_artifact(config).status().done


def test_card(config, made):
    artifact = made(config)
    card = (artifact.directory / "dataset_card.md").read_text()
    for part in ("[MASK]{", "300 articles", "of 1000 unknown", "DATASET.MAX_SEQ_LENGTH", "31-32"):
        assert part in card, part
    assert str(config.SYSTEM.OUTPUT_ROOT) not in card


def test_too_little_memory_is_refused_with_the_least_that_would_do(config):
    config.SYSTEM.MAX_MEMORY_IN_GB = 0.3
    with pytest.raises(ConfigError, match=r"MAX_MEMORY_IN_GB.*got 0\.3, expected at least 0\.\d"):
        prepare_dataset(config)
    assert not (Path(config.SYSTEM.OUTPUT_ROOT) / "data").exists()


def test_manifest_and_format(config, made):
    artifact = made(config)
    results = artifact.manifest["results"]
    assert results["num_train_shards"] == 3 and results["num_test_shards"] == 2
    assert len(results["train_shards"]) == 6 and len(results["test_shards"]) == 2
    assert sum(results["train_shards"].values()) == 2 * results["num_train_samples"]
    assert sum(results["test_shards"].values()) == results["num_test_samples"]
    assert results["vocab_size"] == load_tokenizer(artifact.directory / "tokenizer").vocab_size
    samples = read_samples(artifact.directory / "train_00000_00.hdf5")
    assert [samples[name].shape[1] for name in (*ROW_ARRAYS, *MASK_ARRAYS)] == [32, 32, 32, 5, 5]
    assert (samples["input_ids"][:, 0] == 2).all() and samples["segment_ids"].sum() == 0
    assert ((samples["input_ids"] != 0) == samples["input_mask"]).all()


@pytest.mark.parametrize(("workers", "memory"), [(2, 1.0), (4, 16.0)])
def test_same_bytes_for_other_workers_and_memory(config, tmp_path, workers, memory, made):
    first = made(config)
    config.SYSTEM.OUTPUT_ROOT = str(tmp_path / "other")
    config.SYSTEM.NUM_WORKERS = workers
    config.SYSTEM.MAX_MEMORY_IN_GB = memory
    second = prepare(config)
    assert first.directory.name == second.directory.name
    assert files_of(first.directory) == files_of(second.directory)
    assert files_of(first.parts[0]) == files_of(second.parts[0])


def test_second_run_changes_nothing(config, made):
    artifact = made(config)
    before = {path: path.stat().st_mtime_ns for path in artifact.directory.rglob("*")}
    digests = Path(config.SYSTEM.OUTPUT_ROOT) / "tmp/dataset/digests.json"
    before[digests] = digests.stat().st_mtime_ns
    prepare_dataset(config)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_planning_writes_nothing_and_uses_known_digests(config, monkeypatch, made):
    dataset_artifact(config)
    assert not Path(config.SYSTEM.OUTPUT_ROOT).exists()
    made(config)
    monkeypatch.setattr(
        "dataset.sources.digests.file_digest", lambda path: pytest.fail("read again")
    )
    assert dataset_artifact(config).status().done


def test_a_run_names_its_sources(config, capsys):
    prepare(config)
    [folder] = config.DATASET.CUSTOMIZED_DATASETS
    assert f"dataset: source: {folder}, 0.1 MB in 2 files\n" in capsys.readouterr().out


def test_planning_lists_a_source_once(config, monkeypatch):
    """A corpus may have a million files."""
    listed = []
    monkeypatch.setattr(
        "dataset.sources.digests.local_files",
        lambda source: listed.append(source) or local_files(source),
    )
    assert dataset_estimate(config).notes[0].startswith("text: 0.1 MB in 2 files")
    assert len(listed) == 1


def num_files(folder):
    return sum(len(files) for *_, files in os.walk(folder))


def test_killed_at_any_moment(config, tmp_path, made):
    undisturbed = made(config)
    config.SYSTEM.OUTPUT_ROOT = str(tmp_path / "killed")
    config.TOKENIZER.TRAIN = False
    yaml = tmp_path / "config.yaml"
    yaml.write_text(config.dump())
    program = (
        "import sys\n"
        "from configs.defaults import get_default_config\n"
        "from dataset.stage import prepare_dataset\n"
        "if __name__ == '__main__':\n"
        "    config = get_default_config()\n"
        "    config.merge_from_file(sys.argv[1])\n"
        "    prepare_dataset(config)\n"
    )
    script = tmp_path / "prepare.py"
    script.write_text(program)
    root, rng = Path(config.SYSTEM.OUTPUT_ROOT), random.Random(0)
    for _ in range(10):
        wanted = num_files(root) + rng.randrange(6)
        child = subprocess.Popen(
            [sys.executable, str(script), str(yaml)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
            stdout=subprocess.DEVNULL,
        )
        while child.poll() is None and num_files(root) < wanted:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    resumed = prepare(config)
    assert files_of(resumed.directory) == files_of(undisturbed.directory)
    assert files_of(resumed.parts[0]) == files_of(undisturbed.parts[0])


def test_missing_sample_files_are_made_again(config, tmp_path, made):
    artifact = made(config)
    expected = files_of(artifact.directory)
    kept = (artifact.directory / "train_00001_00.hdf5").stat().st_mtime_ns
    for name in ("manifest.json", "train_00000_00.hdf5", "train_00000_01.hdf5", "test_00000.hdf5"):
        (artifact.directory / name).unlink()
    (artifact.directory / "train_00002_01.hdf5").unlink()
    prepare(config)
    assert files_of(artifact.directory) == expected
    assert (artifact.directory / "train_00001_00.hdf5").stat().st_mtime_ns == kept


def test_a_deleted_file_is_made_again_and_nothing_else(config, made):
    artifact = made(config)
    expected = files_of(artifact.directory)
    kept = {path: path.stat().st_mtime_ns for path in artifact.directory.glob("*.hdf5")}
    lost = artifact.directory / "train_00001_01.hdf5"
    lost.unlink()
    kept.pop(lost)
    status = dataset_artifact(config).status()
    assert status.state == "unfinished" and lost.name in status.reason
    prepare(config)
    assert files_of(artifact.directory) == expected
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_what_a_kill_at_the_last_moment_left_is_removed(config, made):
    artifact = made(config)
    (artifact.directory / "manifest.json").unlink()
    for name in ("runs", "sources"):
        (artifact.parts[0] / name).mkdir()
        (artifact.parts[0] / name / "000000.run").write_text("text")
    prepare(config)
    assert {path.name for path in artifact.parts[0].iterdir() if path.is_dir()} == {"records"}


# --- damage ----------------------------------------------------------------------------------


def test_a_flipped_byte_is_named_and_the_file_made_again(config, made):
    artifact = made(config)
    expected = files_of(artifact.directory)
    for name, place in (
        *(("train_00001_00.hdf5", 0.1), ("train_00001_00.hdf5", 0.9), ("test_00000.hdf5", 0.5)),
        *(("tokenizer/vocab.txt", 0.5), ("dataset_card.md", 0.5), ("manifest.json", 0.5)),
    ):
        flip_byte(artifact.directory / name, int(place * len(expected[name])))
        assert artifact.status().reason == f"{name} is damaged and is made again"
        prepare(config)
        assert files_of(artifact.directory) == expected


@pytest.mark.parametrize(
    "harmed",
    [
        *("data/*/train_00002_01.hdf5", "data/*/tokenizer/vocab.txt", "data/*/masking.json"),
        *("data/*/records/*.json", "tmp/dataset/*/records/*.json", "tmp/dataset/*/shards.json"),
        "tmp/dataset/*/t*.txt",
    ],
)
def test_an_unfinished_dataset_goes_on_from_what_is_intact(config, harmed, made):
    config.DATASET.MASKING = "dynamic" if "masking" in harmed else "static"
    artifact = made(config)
    expected = [files_of(folder) for folder in artifact.folders]
    for path in artifact.directory.glob("train_00000*"):
        path.unlink()
    (artifact.directory / "manifest.json").unlink()
    found = [*Path(config.SYSTEM.OUTPUT_ROOT).glob(harmed)]
    for path in found:
        flip_byte(path, path.stat().st_size // 2)
    prepare(config)
    assert found and [files_of(folder) for folder in artifact.folders] == expected


def test_a_dataset_without_its_sources_is_made_again_from_its_text_shards(config, corpus, tmp_path):
    config.DATASET.ID = "mine"
    config.DATASET.CUSTOMIZED_DATASETS = [str(shutil.copytree(corpus, tmp_path / "text"))]
    artifact = prepare(config)
    expected = files_of(artifact.directory)
    shutil.rmtree(tmp_path / "text")
    flip_byte(artifact.directory / "train_00001_00.hdf5")
    prepare(config)
    assert files_of(artifact.directory) == expected
    flip_byte(artifact.directory / "train_00001_00.hdf5")
    flip_byte(artifact.parts[0] / "train_00000.txt")
    with pytest.raises(StageError, match=r"CUSTOMIZED_DATASETS: folder .*text does not exist"):
        prepare_dataset(config)
    assert not dataset_artifact(config).status().done


# --- the user's own text ---------------------------------------------------------------------


@pytest.mark.parametrize("place", ["data/mine", "data", "data/mine/deep", "tmp/dataset/mine", "."])
def test_text_is_never_where_the_dataset_goes(config, corpus, place):
    """Or running it anew, with --force, would delete it."""
    folder = Path(config.SYSTEM.OUTPUT_ROOT) / place
    shutil.copytree(corpus, folder)
    config.DATASET.ID = "mine"
    config.DATASET.CUSTOMIZED_DATASETS = [str(folder)]
    with pytest.raises(ConfigError, match=r"CUSTOMIZED_DATASETS: .* overlap; expected text in"):
        prepare_dataset(config)
    config.DATASET.CUSTOMIZED_DATASETS = [str(corpus)]
    if place != ".":
        config.DATASET.ID = "mine" if "mine" in place else "data"
    if place in ("data/mine", "tmp/dataset/mine"):
        with pytest.raises(ConfigError, match=r"DATASET\.ID: .* was not made by this program"):
            prepare_dataset(config)
    assert files_of(folder) == files_of(corpus)


def test_text_that_is_given_twice_is_refused(config, corpus, tmp_path):
    """It would be trained on and held out at once."""
    link = tmp_path / "link"
    link.symlink_to(corpus)
    for second in (corpus, link, corpus / "a.txt"):
        config.DATASET.CUSTOMIZED_DATASETS = [str(corpus), str(second)]
        with pytest.raises(ConfigError, match=f"{second} and {corpus} are .*each text once"):
            dataset_artifact(config)
    config.DATASET.CUSTOMIZED_DATASETS = [str(corpus)]
    config.DATASET.HUGGINGFACE_DATASETS = [[str(corpus), "default"]]
    with pytest.raises(ConfigError, match="are the same text"):
        dataset_artifact(config)
    config.DATASET.CUSTOMIZED_DATASETS = [str(corpus / "a.txt"), str(corpus / "b.txt")]
    config.DATASET.HUGGINGFACE_DATASETS = [["wiki", "en", split] for split in ("train", "test")]
    dataset_artifact(config)


def test_a_name_is_free_after_an_attempt_that_failed(config, tmp_path):
    """Nothing was made: what was wrong with the text can be repaired."""
    (tmp_path / "text").mkdir()
    (tmp_path / "text/a.txt").write_text("The cat sat.\n\nThe dog ran.\n\nIt saw a river.")
    damaged = tmp_path / "text/b.txt.gz"
    damaged.write_bytes(gzip.compress(random.Random(0).randbytes(200_000))[:150_000])
    config.DATASET.CUSTOMIZED_DATASETS = [str(tmp_path / "text")]
    config.DATASET.ID = "mine"
    with pytest.raises(StageError, match=r"b\.txt\.gz: damaged or cut off"):
        prepare_dataset(config)
    damaged.unlink()
    prepare(config)


def test_a_screen_that_shows_nothing_ends_nothing(config, corpus, tmp_path, monkeypatch):
    folder = Path(os.fsdecode(os.fsencode(str(tmp_path)) + b"/caf\xe9"))
    shutil.copytree(corpus, folder)
    config.DATASET.CUSTOMIZED_DATASETS = [str(folder)]
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    card = prepare(config).directory / "dataset_card.md"
    assert "caf\\udce9" in card.read_text()


def test_identity(config, corpus, vocabulary, tmp_path):
    first = dataset_artifact(config)
    config.SYSTEM.NUM_WORKERS = 7
    moved = shutil.copytree(corpus, tmp_path / "elsewhere" / corpus.name)
    config.DATASET.CUSTOMIZED_DATASETS = [str(moved)]
    assert dataset_artifact(config) == first
    (moved / "a.txt").write_text("Other text.\n\nMore.")
    changed = dataset_artifact(config)
    changes = {key for key in first.inputs if first.inputs[key] != changed.inputs[key]}
    assert changes == {"sources"}
    config.DATASET.SEED = 1
    config.TOKENIZER.DO_LOWER_CASE = False
    assert {"DATASET.SEED", "TOKENIZER.DO_LOWER_CASE"} <= {
        key for key in first.inputs if first.inputs[key] != dataset_artifact(config).inputs[key]
    }
    other = tmp_path / "vocab.txt"
    other.write_text(vocabulary.read_text() + "more\n")
    config.TOKENIZER.NAME_OR_PATH = str(other)
    assert dataset_artifact(config).inputs["tokenizer"] != first.inputs["tokenizer"]
    config.TOKENIZER.TRAIN = True
    inputs = dataset_artifact(config).inputs
    assert "tokenizer" not in inputs and "TOKENIZER.VOCAB_SIZE" in inputs


def test_same_name_for_other_settings_is_an_error(config):
    config.DATASET.ID = "mine"
    prepare(config)
    config.DATASET.SEED = 1
    with pytest.raises(ConfigError, match=r"DATASET\.SEED 42 -> 1"):
        prepare_dataset(config)


def test_dataset_that_was_made_elsewhere(config, corpus, tmp_path):
    config.DATASET.ID = "mine"
    config.DATASET.CUSTOMIZED_DATASETS = [str(shutil.copytree(corpus, tmp_path / "text"))]
    vocabulary = shutil.copy(config.TOKENIZER.NAME_OR_PATH, tmp_path / "v.txt")
    config.TOKENIZER.NAME_OR_PATH = str(vocabulary)
    made = prepare(config)
    shutil.rmtree(tmp_path / "text")
    vocabulary.unlink()
    assert dataset_artifact(config).fingerprint == made.fingerprint
    config.DATASET.SEED = 1
    assert dataset_artifact(config).status().reason == "DATASET.SEED 42 -> 1"
    config.DATASET.ID = ""  # nothing tells what it was made from
    with pytest.raises(ConfigError, match=r"CUSTOMIZED_DATASETS: .*\n.*NAME_OR_PATH"):
        dataset_artifact(config)


def test_seed_configs_need_no_files_to_be_planned(config):
    config.DATASET.CUSTOMIZED_DATASETS = []
    config.DATASET.HUGGINGFACE_DATASETS = [["wikipedia", "20220301.en"]]
    config.TOKENIZER.NAME_OR_PATH = "bert-large-uncased"
    artifact = dataset_artifact(config)
    assert artifact.directory.name.startswith("wikipedia-")
    assert artifact.inputs["TOKENIZER.NAME_OR_PATH"] == "bert-large-uncased"


def test_trained_tokenizer_and_default_shards(config):
    config.TOKENIZER.TRAIN = True
    config.TOKENIZER.VOCAB_SIZE = 200
    config.DATASET.NUM_TRAIN_SHARDS = config.DATASET.NUM_TEST_SHARDS = 0
    results = prepare(config).manifest["results"]
    assert results["vocab_size"] <= 200
    assert results["num_unknown_tokens"] == 0
    assert results["num_train_shards"] == results["num_test_shards"] == 1


def test_more_shards_than_articles(config, tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "a.txt").write_text("The cat sat.\n\nThe dog ran.\n\nIt saw a river.")
    config.DATASET.CUSTOMIZED_DATASETS = [str(folder)]
    results = prepare(config).manifest["results"]
    assert results["num_train_samples"] + results["num_test_samples"] == 3
    assert results["num_train_shards"] <= 2 and results["num_test_shards"] == 1


def test_failure_is_one_line_and_is_not_remembered_as_success(config, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one/a.txt").write_text("A single article.")
    config.DATASET.CUSTOMIZED_DATASETS = [str(tmp_path / "one")]
    with pytest.raises(StageError, match="expected at least two") as caught:
        prepare_dataset(config)
    assert "expected at least two" in caught.value.log.read_text()
    assert dataset_artifact(config).status().state == "unfinished"


def test_planning_imports_nothing_heavy():
    program = (
        "import sys, dataset.plan, dataset.stage; "
        "print([m for m in ('numpy', 'torch', 'transformers', 'datasets', 'h5py', 'tokenizers', "
        "'pyarrow', 'sentencex') if m in sys.modules])"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_manifest_is_json_of_plain_numbers(config, made):
    text = (made(config).directory / "manifest.json").read_text()
    assert json.loads(text)["results"]["headline"]


@pytest.mark.parametrize(("most", "is_enough"), [(20, False), (69, False), (70, True), (77, True)])
def test_a_limit_that_cuts_the_share_of_predictions_is_told(config, most, is_enough):
    config.DATASET.MAX_SEQ_LENGTH, config.DATASET.MASKED_LM_PROB = 512, 0.15
    config.DATASET.MAX_PREDICTIONS_PER_SEQ = most
    told = [note for note in dataset_estimate(config).notes if "MAX_PREDICTIONS_PER_SEQ" in note]
    assert len(told) == (not is_enough)
    assert all(note.startswith("WARNING: ") and note.endswith("needs 77") for note in told)
