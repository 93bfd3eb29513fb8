"""The datasets of a run's phases: which are made, and what they share."""

import shutil

import pytest

from configs.phases import phase_configs
from dataset.estimate import estimate
from dataset.plan import plan
from dataset.stage import prepare_dataset
from pipeline.console import WARNING_PREFIX

LONG = {"SHARE": 0.5, "MAX_SEQ_LENGTH": 64, "MAX_PREDICTIONS_PER_SEQ": 10}


def fingerprints(config):
    return [one.artifact.fingerprint for one in plan(config).of_phases]


@pytest.fixture
def two_lengths(config):
    config.PRETRAIN.PHASES = [{"SHARE": 0.5}, dict(LONG)]
    return config


def test_each_dataset_is_that_of_the_phases_config(two_lengths):
    alone = [plan(own).artifact.fingerprint for own in phase_configs(two_lengths)]
    assert fingerprints(two_lengths) == alone
    two_lengths.TOKENIZER.TRAIN = True  # on the same text
    alone = [plan(own).artifact.fingerprint for own in phase_configs(two_lengths)]
    assert fingerprints(two_lengths) == alone


def test_equal_datasets_are_made_once(config):
    half = {"SHARE": 0.5, "LEARNING_RATE": 1e-4}
    config.PRETRAIN.PHASES = [{"SHARE": 0.5}, half]
    found = plan(config)
    assert [link.artifact for link in found.links] == [found.artifact] and found.label == ""
    assert found.of_phases[0].artifact == found.of_phases[1].artifact


def test_the_first_phases_dataset_is_made_first(config):
    """Even if it is also that of the last phase: others may need its tokenizer."""
    third = {"SHARE": 1 / 3}
    config.PRETRAIN.PHASES = [third, {**LONG, **third}, third]
    found = plan(config)
    first, second = found.links
    assert [own.artifact for own in found.of_phases] == [
        *(first.artifact, second.artifact, first.artifact)
    ]
    assert second.text_from.artifact == first.artifact and not first.earlier


def test_a_tokenizer_trained_on_other_text_is_part_of_the_identity(config, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("A note. Of two sentences.\n\nAnd one more.\n")
    config.TOKENIZER.TRAIN = True
    notes = {"SHARE": 0.5, "CUSTOMIZED_DATASETS": [str(tmp_path / "notes")]}
    config.PRETRAIN.PHASES = [{"SHARE": 0.5}, notes]
    first, second = plan(config).links
    assert second.tokenizer_from.artifact == first.artifact and second.text_from is None
    before = fingerprints(config)
    config.DATASET.MASKED_LM_PROB = 0.2  # not of the tokenizer
    config.PRETRAIN.PHASES[1]["MASKED_LM_PROB"] = 0.15
    assert fingerprints(config)[1] == before[1] and fingerprints(config)[0] != before[0]
    config.TOKENIZER.VOCAB_SIZE += 1
    assert fingerprints(config)[1] != before[1]


def test_sources_that_are_split_otherwise_are_named(config, corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "more")
    (tmp_path / "more" / "c.txt").write_text("More text. Of two sentences.\n")
    for name in ("a.txt", "b.txt"):
        (tmp_path / "more" / name).unlink()
    more = str(tmp_path / "more")

    def warnings(*sources):
        config.PRETRAIN.PHASES = [
            {"SHARE": 0.5},
            {"SHARE": 0.5, "CUSTOMIZED_DATASETS": list(sources)},
        ]
        notes = estimate(config, plan(config).links[-1]).notes
        return [note for note in notes if note.startswith(WARNING_PREFIX)]

    assert warnings(str(corpus), more) == []
    [line] = warnings(more, str(corpus))
    assert str(corpus) in line and "an earlier phase trains on some" in line


@pytest.mark.slow
def test_datasets_share_text_and_tokenizer(two_lengths, tmp_path):
    two_lengths.TOKENIZER.TRAIN, two_lengths.TOKENIZER.VOCAB_SIZE = True, 150
    two_lengths.TOKENIZER.NAME_OR_PATH = "bert-large-uncased"
    prepare_dataset(two_lengths)
    first, second = plan(two_lengths).links
    folders = [link.artifact.directory for link in (first, second)]
    assert all(link.artifact.status().done for link in (first, second))
    tokenizers = [(folder / "tokenizer" / "tokenizer.json").read_bytes() for folder in folders]
    assert tokenizers[0] == tokenizers[1]
    assert list(first.artifact.parts[0].glob("train_*.txt"))
    assert not list(second.artifact.parts[0].glob("*.txt"))

    # By itself, from text shards of its own, the second dataset is the same.
    alone = phase_configs(two_lengths)[1]
    alone.SYSTEM.OUTPUT_ROOT = str(tmp_path / "alone")
    prepare_dataset(alone)
    other = plan(alone).artifact
    assert other.fingerprint == second.artifact.fingerprint
    names = other.manifest["results"]["train_shards"]
    assert names == second.artifact.manifest["results"]["train_shards"]
    for name in names:
        assert (other.directory / name).read_bytes() == (folders[1] / name).read_bytes()
