"""The model card: what the Hub reads of it, what it says, and what it must not say."""

import json
from argparse import Namespace

import pytest
import torch
import yaml

from pretrain.flags import parse_flags
from pretrain.model.export import export_model
from pretrain.model.model import build_model
from pretrain.model.model_card import num_stored_weights, write_model_card
from pretrain.settings import Settings
from tests.pretrain.model.test_model import VARIANTS, model_args
from tests.pretrain.shards import write_dataset

SPECIAL_IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
RUN = {
    "lr_schedule": "step",
    "max_steps": 1234,
    "total_training_time": 24.0,
    "train_batch_size": 4096,
    "lr": 1e-3,
    "curve": "elastic_step_decay",
    "esd_r": 0.5,
    "esd_l": 6,
    "optimizer_type": "adamw",
    "adam_beta1": 0.9,
    "precision": "fp16",
    "job_name": "secret job",
}
METRICS = [
    {"kind": "train", "step": 100, "tokens": 5000, "loss": 7.5, "lr": 1e-3},
    {"kind": "validation", "step": 100, "loss": 7.0, "accuracy": 0.1, "perplexity": 1096.6},
    {"kind": "train", "step": 200, "tokens": 10000, "loss": float("nan"), "lr": 1e-3},
    {"kind": "train", "step": 300, "tokens": 15000, "loss": 2.5, "lr": 1e-4},
    {"kind": "validation", "step": 300, "loss": 2.25, "accuracy": 0.5, "perplexity": 9.49},
]
DATASET_CARD = """# secret name

## Text

- /secret/folder

## Lengths of the samples

```
tokens  samples
1-16    12      ####
```

## A held-out sample

the patient is called [MASK]{secret}
"""


@pytest.fixture
def dataset(tmp_path):
    folder = write_dataset(tmp_path / "dataset")
    results = {"num_tokens": 123456, "masking": "static", "packed": False, "secret": "secret"}
    (folder / "manifest.json").write_text(json.dumps({"stage": "dataset", "results": results}))
    (folder / "dataset_card.md").write_text(DATASET_CARD)
    return folder


def exported(dataset, folder, **changes):
    flags = vars(parse_flags(["--dataset_path=/secret/data", "--output_dir=/secret/out"]))
    model = vars(model_args(special_ids=SPECIAL_IDS, **changes))
    settings = Settings.from_args(Namespace(**(flags | RUN | model)))
    torch.manual_seed(0)
    weights = build_model(settings.model).state_dict()
    export_model(weights, settings.model, dataset / "tokenizer", folder)
    return settings


def front_matter(card):
    _, yaml_text, _ = card.split("---\n", 2)
    return yaml.safe_load(yaml_text)


@pytest.mark.slow
def test_what_it_says(dataset, tmp_path):
    settings = exported(dataset, tmp_path / "model")
    write_model_card(tmp_path / "model", settings, dataset, METRICS)
    card = (tmp_path / "model" / "README.md").read_text()
    head = front_matter(card)
    assert (head["pipeline_tag"], head["library_name"]) == ("fill-mask", "transformers")
    assert "roberta-prelayernorm" in head["tags"] and "custom_code" not in head["tags"]
    for row in (
        "| tokens | 123,456 |",
        "| several texts per row | no |",
        "| hidden_size | 32 |",
        "| max_steps | 1,234 |",
        "| esd_r | 0.5 |",
        "| adam_beta1 | 0.9 |",
        "| training loss, nats per predicted token | 2.5 |",
        "| validation loss | 2.25 |",
        "| tokens seen | 15,000 |",
    ):
        assert row in card, row
    assert "1-16    12      ####" in card and "[MASK] here." in card
    assert "total_training_time" not in card and "trust_remote_code" not in card
    assert (tmp_path / "model" / "loss_curve.png").read_bytes().startswith(b"\x89PNG")


def test_it_holds_no_text_no_names_and_no_paths(dataset, tmp_path):
    settings = exported(dataset, tmp_path / "model")
    write_model_card(tmp_path / "model", settings, dataset, METRICS)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "secret" not in card and "patient" not in card and str(tmp_path) not in card


def test_a_model_with_its_own_code_is_loaded_with_trust(dataset, tmp_path):
    settings = exported(dataset, tmp_path / "model", **VARIANTS["swiglu rmsnorm"])
    write_model_card(tmp_path / "model", settings, dataset, [])
    card = (tmp_path / "model" / "README.md").read_text()
    assert card.count(", trust_remote_code=True)") == 3
    assert "custom_code" in front_matter(card)["tags"] and "| norm_type | rmsnorm |" in card


def test_an_architecture_of_transformers_shows_no_settings_of_ours(dataset, tmp_path):
    settings = exported(dataset, tmp_path / "model", model_type="distilbert")
    write_model_card(tmp_path / "model", settings, dataset, METRICS)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "encoder_ln_mode" not in card and "# DistilBertForMaskedLM" in card


def test_without_metrics_and_without_a_manifest(dataset, tmp_path):
    settings = exported(dataset, tmp_path / "model")
    (dataset / "manifest.json").unlink()
    write_model_card(tmp_path / "model", settings, dataset, [])
    card = (tmp_path / "model" / "README.md").read_text()
    assert "## Data" not in card and "## Results" not in card and "## Recipe" in card
    assert not (tmp_path / "model" / "loss_curve.png").exists()


def test_number_of_weights(dataset, tmp_path):
    exported(dataset, tmp_path / "model", encoder_ln_mode="post-ln")
    model = build_model(model_args(encoder_ln_mode="post-ln", pad_vocab_to_multiple_of=1))
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert num_stored_weights(tmp_path / "model" / "model.safetensors") == counted
