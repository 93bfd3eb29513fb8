"""DATASET.WEIGHTS in the whole stage: shares of the training tokens, the plan, the card."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from dataset.stage import prepare_dataset
from dataset.tokenizers.load import load_tokenizer
from tests.dataset.dataset_helpers import files_of, token_stream
from tests.plans import dataset_artifact, dataset_estimate

ARTICLE = re.compile(r"(cat|dog) article ((?:\d )+)begins")


@pytest.fixture
def two_sources(config, tmp_path):
    """60 articles on a cat and 240 on a dog, all numbered."""
    for name, number in (("cat", 60), ("dog", 240)):
        folder = tmp_path / f"{name}s"
        folder.mkdir()
        articles = [
            f"{name} article {i} begins. " + f"The {name} sat. " * (3 + i % 9)
            for i in range(number)
        ]
        (folder / "all.txt").write_text("\n\n".join(articles), encoding="utf-8")
    config.DATASET.CUSTOMIZED_DATASETS = [str(tmp_path / "cats"), str(tmp_path / "dogs")]
    config.DATASET.MASKING = "dynamic"
    return config


def prepare(config):
    prepare_dataset(config)
    artifact = dataset_artifact(config)
    return artifact, artifact.manifest["results"]


def articles_in(artifact, split):
    """How often each article begins in the samples of a split."""
    tokenizer = load_tokenizer(artifact.directory / "tokenizer").tokenizer
    text = ""
    for path in sorted(artifact.directory.glob(f"{split}_*.hdf5")):
        tokens = (tokenizer.id_to_token(i).removeprefix("##") for i in token_stream(path))
        text += " ".join(tokens) + " "
    return Counter((name, number.replace(" ", "")) for name, number in ARTICLE.findall(text))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{}, {"PACKING": True}, {"NEXT_SENTENCE_PREDICTION": True}], ids=str
)
def test_each_source_has_its_share_of_the_training_tokens(two_sources, changes):
    config = two_sources
    for key, value in changes.items():
        config.DATASET[key] = value
    natural, without = prepare(config)
    config.DATASET.WEIGHTS = [3.0, 1.0]
    mixed, results = prepare(config)
    assert natural.directory != mixed.directory
    assert files_of(natural.parts[0], "t*.txt") == files_of(mixed.parts[0], "t*.txt")
    cats, dogs = results["mixture"]
    assert [cats["share"], dogs["share"]] == pytest.approx([0.75, 0.25], abs=0.005)
    assert cats["tokens_taken"] + dogs["tokens_taken"] == pytest.approx(
        cats["tokens"] + dogs["tokens"], rel=0.01
    )
    assert cats["times"] > 3 > 1 > dogs["times"]

    held_out, trained = articles_in(mixed, "test"), articles_in(mixed, "train")
    if not changes.get("NEXT_SENTENCE_PREDICTION"):  # random second segments repeat text
        assert articles_in(natural, "test") == held_out
        assert set(held_out.values()) == {1}
        times = Counter(trained[article] for article in trained if article[0] == "cat")
        assert set(times) == {int(cats["times"]), int(cats["times"]) + 1}
        assert {trained[article] for article in trained if article[0] == "dog"} == {1}
        tokens = sum(
            len(token_stream(path)) for path in sorted(mixed.directory.glob("train_*.hdf5"))
        )
        assert tokens == cats["tokens_taken"] + dogs["tokens_taken"]
        assert results["num_test_samples"] == without["num_test_samples"]
        assert sum(row["held_out_articles"] for row in (cats, dogs)) == len(held_out)
    assert held_out and not set(held_out) & set(trained)
    assert sum(name == "dog" for name, _ in trained) < 0.6 * 240

    card = (mixed.directory / "dataset_card.md").read_text()
    assert f"{cats['name']}: {cats['share']:.2%} of the training tokens (weight 3)" in card
    assert "mixture" not in without and "weight" not in json.dumps(without)


@pytest.mark.slow
def test_weights_give_the_same_bytes_with_any_number_of_workers(two_sources, tmp_path):
    config, found = two_sources, []
    config.DATASET.WEIGHTS = [1.0, 2.0]
    config.TOKENIZER.TRAIN, config.TOKENIZER.VOCAB_SIZE = True, 100
    config.TOKENIZER.NAME_OR_PATH = "bert-large-uncased"
    for workers, memory in ((1, 16.0), (2, 1.5)):
        config.SYSTEM.NUM_WORKERS, config.SYSTEM.MAX_MEMORY_IN_GB = workers, memory
        config.SYSTEM.OUTPUT_ROOT = str(tmp_path / f"root{workers}")
        artifact, _ = prepare(config)
        found.append(
            files_of(artifact.directory, "*.hdf5")
            | files_of(artifact.directory / "tokenizer")
            | files_of(artifact.directory, "dataset_card.md")
        )
    assert found[0] == found[1] and len(found[0]) > 5


def test_the_plan_tells_what_each_source_contributes(two_sources):
    config = two_sources
    before = dataset_artifact(config)
    assert "DATASET.WEIGHTS" not in before.inputs
    assert not any("weight" in note for note in dataset_estimate(config).notes)
    config.DATASET.WEIGHTS = [3.0, 1.0]
    assert dataset_artifact(config).inputs["DATASET.WEIGHTS"] == [3.0, 1.0]
    cats, dogs = (note for note in dataset_estimate(config).notes if note.startswith("weight"))
    cat_folder, dog_folder = config.DATASET.CUSTOMIZED_DATASETS
    assert cats.startswith(
        f"weight 3 of {cat_folder}: 75.00% of the training tokens, taken about 3"
    )
    assert re.search(f"weight 1 of {dog_folder}: 25.00% .*, about 3[0-9]% of it", dogs)
    config.DATASET.WEIGHTS = [90.0, 1.0]
    assert not any("WARNING: weight" in note for note in dataset_estimate(config).notes)
    (Path(dog_folder) / "more.txt").write_text("The dog ran.\n\n" * 40_000)
    assert any(
        note.startswith("WARNING: weight 90 ") and "small beside the others" in note
        for note in dataset_estimate(config).notes
    )
