"""Every masked language model of transformers is either trained here or refused by name."""

import pytest
import torch

from configs.defaults import get_default_config
from pipeline.errors import ConfigError
from pretrain.checks import check_machine
from pretrain.estimate import model_bytes
from pretrain.model.model import build_model
from pretrain.model.model_types import OWN_TYPE, SUPPORTED, UNSUPPORTED, check_model_type
from tests.plans import pretrain_estimate
from tests.pretrain.model.test_model import LABELS, example_batch, model_args
from tests.pretrain.model.test_transformers_model import SPECIAL_IDS

# Number of weights that no masked token trains, of those that have any.
UNTRAINED = {
    **{"big_bird": 2, "esm": 2, "layoutlm": 2, "longformer": 18, "luke": 31, "squeezebert": 2},
    "roformer": 1,
}


def test_all_of_transformers_masked_language_models_are_known():
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as NAMES

    assert sorted(NAMES) == sorted((*SUPPORTED, *UNSUPPORTED))


@pytest.mark.slow
@pytest.mark.parametrize("model_type", SUPPORTED)
def test_a_supported_one_trains(model_type):
    torch.manual_seed(0)
    model = build_model(model_args(model_type=model_type, special_ids=SPECIAL_IDS))
    loss = model(*example_batch(), LABELS)
    loss.backward()
    assert loss.isfinite() and 3 < loss < 6  # about ln 61
    untrained = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert len(untrained) == UNTRAINED.get(model_type, 0), untrained


@pytest.mark.parametrize("model_type", UNSUPPORTED)
def test_what_cannot_be_trained_is_refused_with_what_can(model_type):
    with pytest.raises(ValueError, match=f"model_type: {model_type} cannot be trained") as refusal:
        check_model_type(model_type)
    assert f"expected {OWN_TYPE}, or of transformers one of albert, bert" in str(refusal.value)


def plan(**model):
    config = get_default_config()
    config.MODEL.update(model)
    config.SYSTEM.NUM_GPUS = 0
    check_machine(config)
    return config


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ({"TYPE": "funnel"}, "MODEL.TYPE: funnel cannot be trained here, its layers form block"),
        ({"TYPE": "mobilebert"}, "MODEL.TYPE: mobilebert cannot be trained here, its layers are"),
        ({"TYPE": "robert"}, "MODEL.TYPE: expected .*, got robert; did you mean .*roberta"),
        ({"TYPE": "ibert", "HIDDEN_ACT": "silu"}, "MODEL.TYPE: ibert cannot be built: .*'gelu'"),
        (
            {"TYPE": "roformer", "HIDDEN_SIZE": 36, "NUM_ATTENTION_HEADS": 4},
            "MODEL.NUM_ATTENTION_HEADS: roformer needs heads of even size, got 9",
        ),
        (
            {"TYPE": "convbert", "HIDDEN_SIZE": 30, "NUM_ATTENTION_HEADS": 5},
            "MODEL.NUM_ATTENTION_HEADS: convbert needs an even number, got 5",
        ),
    ],
)
def test_the_plan_refuses_what_would_fail(model, problem):
    with pytest.raises(ConfigError, match=f"^{problem}"):
        plan(**model)


def test_the_plan_refuses_checkpointing_that_there_is_not():
    config = get_default_config()
    config.MODEL.TYPE, config.PRETRAIN.GRADIENT_CHECKPOINTING = "albert", True
    config.SYSTEM.NUM_GPUS = 0
    with pytest.raises(ConfigError, match=r"^PRETRAIN\.GRADIENT_CHECKPOINTING: albert"):
        check_machine(config)


@pytest.mark.parametrize("model_type", [OWN_TYPE, "bert", "albert", "roberta"])
def test_the_plan_tells_the_size_of_our_own_model_alone(tmp_path, model_type):
    (tmp_path / "text.txt").write_text("One.\n\nTwo.\n")
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\none\n")
    config = plan(TYPE=model_type, HIDDEN_SIZE=64, NUM_HIDDEN_LAYERS=12, NUM_ATTENTION_HEADS=4)
    config.SYSTEM.OUTPUT_ROOT = str(tmp_path / "root")
    config.DATASET.HUGGINGFACE_DATASETS = []
    config.DATASET.CUSTOMIZED_DATASETS = [str(tmp_path / "text.txt")]
    config.TOKENIZER.NAME_OR_PATH = str(tmp_path / "vocab.txt")
    notes = pretrain_estimate(config).notes
    settings = {key.lower(): value for key, value in config.MODEL.items()}
    args = model_args(
        **settings,
        model_type=model_type,
        special_ids=SPECIAL_IDS,
        vocab_size=30522,
        max_seq_length=128,
    )
    with torch.device("meta"):
        count = sum(weight.numel() for weight in build_model(args).parameters())
    if model_type == OWN_TYPE:
        count -= 6 * 64  # rows that pad the vocabulary
        assert f"{count:,} parameters" in notes[1]
    else:
        assert not any("parameters" in note for note in notes)
    # What the disk is asked for: ALBERT's embeddings are narrower, its layers shared.
    assert 1.0 <= model_bytes(config, 30522) / (4 * count) < 1.02 or model_type == "albert"


def test_albert_asks_the_disk_for_one_layer():
    config = plan(TYPE="albert", NUM_HIDDEN_LAYERS=24, HIDDEN_SIZE=1024, NUM_ATTENTION_HEADS=16)
    one = plan(TYPE="albert", NUM_HIDDEN_LAYERS=1, HIDDEN_SIZE=1024, NUM_ATTENTION_HEADS=16)
    assert model_bytes(config, 30522) == model_bytes(one, 30522)
