"""A config is completed from the checkpoint, and contradictions name both values."""

import json
from pathlib import Path

import pytest

from configs.defaults import get_default_config
from configs.loading import load_config
from dataset.start_from import completed as completed_for_data
from pipeline.errors import ConfigError
from pretrain.checks import check_machine
from pretrain.estimate import model_bytes
from pretrain.flags import parse_flags
from pretrain.start.checkpoint_config import DEFAULTS, read_checkpoint
from pretrain.start.completion import complete, completed, notes
from tests.plans import dataset_artifact, pretrain_artifact, pretrain_estimate
from tests.pretrain.start.checkpoints import (
    CHECKPOINTS,
    OF_TRANSFORMERS,
    completed_config,
    started,
    write_checkpoint,
    write_tokenizer,
)

ALL = {**CHECKPOINTS, **OF_TRANSFORMERS}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        name: write_checkpoint(folder / name.replace(" ", "_"), model_type, **entries)
        for name, (model_type, entries) in ALL.items()
    }


def plain_config(start_from, **values):
    config = get_default_config()
    config.PRETRAIN.START_FROM = str(start_from)
    for key, value in values.items():
        section, _, name = key.partition("__")
        config[section][name] = value
    return config


def write_config(folder: Path, start_from, text="") -> Path:
    path = folder / "config.yaml"
    path.write_text(f"PRETRAIN: {{START_FROM: '{start_from}'}}\n{text}")
    return path


# --- values ----------------------------------------------------------------------------------


def test_every_key_of_the_model_follows(folders):
    model = completed_config(folders["modernbert"]).MODEL
    expected = {
        "TYPE": "bert-mlm",
        "ENCODER_LN_MODE": "pre-ln",
        "POSITION_EMBEDDING_TYPE": "rotary",
        "ROPE_THETA": 160000.0,
        "LOCAL_ROPE_THETA": 10000.0,
        "ATTENTION_WINDOW": 6,
        "GLOBAL_ATTENTION_EVERY": 3,
        "GLU": True,
        "USE_BIAS": False,
        "HIDDEN_SIZE": 32,
        "NUM_HIDDEN_LAYERS": 4,
        "NUM_ATTENTION_HEADS": 4,
        "INTERMEDIATE_SIZE": 48,
        "HIDDEN_DROPOUT_PROB": 0.0,
        "ATTENTION_PROBS_DROPOUT_PROB": 0.0,
        "LAYER_NORM_EPS": 1e-5,
    }
    assert {name: model[name] for name in expected} == expected
    other = completed_config(folders["modernbert, a window in every other layer"]).MODEL
    assert other.GLOBAL_ATTENTION_EVERY == 2
    none = completed_config(folders["modernbert, biases, no windows"]).MODEL
    assert (none.ATTENTION_WINDOW, none.LOCAL_ROPE_THETA, none.USE_BIAS) == (0, 0.0, True)


def test_architectures_that_we_do_not_compute_keep_their_type(folders):
    for name, (model_type, _) in OF_TRANSFORMERS.items():
        config = completed_config(folders[name])
        assert config.MODEL.TYPE == model_type
        assert config.MODEL.HIDDEN_SIZE == 32
    reason = read_checkpoint(folders["bert, other segments"]).why_not_ours
    assert reason == "it has 3 segments"
    said = [*notes(config, read_checkpoint(folders["modernbert, some biases"]))]
    assert said[0].endswith(
        "some of its biases are off (attention_bias, mlp_bias, norm_bias, classifier_bias)"
    )


def test_the_code_of_transformers_can_be_asked_for(folders):
    config = completed_config(folders["bert"], TYPE="bert")
    assert config.MODEL.TYPE == "bert" and config.MODEL.HIDDEN_SIZE == 32
    assert type(started(folders["bert"], TYPE="bert").model).__name__ == "TransformersModel"


@pytest.mark.parametrize("name", ALL)
def test_completing_twice_changes_nothing(folders, name):
    once = completed(plain_config(folders[name]))
    assert completed(once) is once
    assert once.TOKENIZER.NAME_OR_PATH == str(folders[name])
    assert not once.TOKENIZER.DO_LOWER_CASE  # as its tokenizer


def test_the_defaults_of_classes_of_transformers():
    from transformers import AutoConfig

    for model_type in ("bert", "roberta-prelayernorm", "modernbert"):
        config = AutoConfig.for_model(model_type)
        for name, value in DEFAULTS[model_type].items():
            assert getattr(config, name) == value, (model_type, name)


def test_older_configs_of_modernbert_say_the_same(folders, tmp_path):
    now = read_checkpoint(folders["modernbert"])
    older = {
        name: value
        for name, value in now.config.items()
        if name not in ("layer_types", "rope_parameters")
    }
    older |= {"global_attn_every_n_layers": 3, "global_rope_theta": 160000.0}
    older |= {"local_rope_theta": 10000.0}
    (tmp_path / "config.json").write_text(json.dumps(older))
    assert read_checkpoint(tmp_path).keys == now.keys


# --- contradictions --------------------------------------------------------------------------


def test_a_contradiction_names_both_values(folders):
    folder = folders["bert"]
    config = plain_config(folder, MODEL__HIDDEN_SIZE=64, MODEL__ENCODER_LN_MODE="post-ln")
    assert complete(config) == [
        f"MODEL.HIDDEN_SIZE: got 64, but PRETRAIN.START_FROM has 32 ({folder}/config.json), "
        "expected 32, or no value here"
    ]


def test_a_default_that_is_written_down_is_no_default(folders, tmp_path):
    text = "MODEL: {HIDDEN_SIZE: 1024, HIDDEN_DROPOUT_PROB: 0.1}"
    path = write_config(tmp_path, folders["modernbert"], text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, stages=(), complete=complete)
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "MODEL.HIDDEN_SIZE",
        "MODEL.HIDDEN_DROPOUT_PROB",
    ]


def test_some_keys_may_differ(folders):
    values = {"HIDDEN_DROPOUT_PROB": 0.2, "INITIALIZER_RANGE": 0.01, "ROPE_THETA": 320000.0}
    config = completed_config(folders["modernbert"], **values)
    assert {name: config.MODEL[name] for name in values} == values
    said = [*notes(config, read_checkpoint(folders["modernbert"]))]
    assert "MODEL.ROPE_THETA is 320000, that of the checkpoint 160000" in said


def test_a_larger_theta_leaves_the_windows_alone(tmp_path):
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    entries = {
        "local_attention": 6,
        "rope_parameters": {"full_attention": rope, "sliding_attention": dict(rope)},
    }
    folder = write_checkpoint(tmp_path / "modern", "modernbert", **entries)
    assert completed_config(folder).MODEL.LOCAL_ROPE_THETA == 0
    config = completed_config(folder, ROPE_THETA=160000.0)
    assert config.MODEL.LOCAL_ROPE_THETA == 10000.0
    assert completed(config) == config


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"model_type": None}, "has no model_type, expected that of an encoder"),
        ({"model_type": "gpt2"}, "expected bert-mlm, or of transformers one of"),
        ({"quantization_config": {}}, "its weights are quantized"),
        ({"position_embedding_type": "relative_key"}, "its positions are relative_key"),
        ({"vocab_size": "many"}, "has a missing or wrong entry"),
    ],
)
def test_checkpoints_that_cannot_be_trained(folders, tmp_path, entries, message):
    config = json.loads((folders["bert"] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | entries))
    [problem] = complete(plain_config(tmp_path))
    assert problem.startswith("PRETRAIN.START_FROM: ") and message in problem


def test_names_that_lead_nowhere(tmp_path):
    for name, message in (
        ("/no/such/folder", "no such folder, got /no/such/folder"),
        (tmp_path, "no config.json in"),
    ):
        [problem] = complete(plain_config(name))
        assert message in problem


def test_rules_hold_for_the_completed_config(folders):
    config = plain_config(folders["deberta-v2"], DATASET__PACKING=True)
    with pytest.raises(ConfigError, match=r"DATASET\.PACKING: only bert-mlm"):
        completed(config)


@pytest.mark.parametrize("name", ["MODEL_NAME_OR_PATH", "INIT_CHECKPOINT", "LOAD_PATH"])
@pytest.mark.parametrize("section", ["PRETRAIN", "MODEL"])
def test_names_of_other_tools_lead_to_it(tmp_path, section, name):
    path = tmp_path / "config.yaml"
    path.write_text(f"{section}: {{{name}: here}}")
    with pytest.raises(ConfigError, match=r"\(did you mean PRETRAIN\.START_FROM\?\)"):
        load_config(path, stages=())


# --- plans -----------------------------------------------------------------------------------


@pytest.fixture
def config(folders, tmp_path):
    (tmp_path / "text.txt").write_text("one w1.\n\ntwo w2.\n")
    return plain_config(
        folders["bert"],
        SYSTEM__OUTPUT_ROOT=str(tmp_path / "root"),
        SYSTEM__NUM_GPUS=0,
        DATASET__CUSTOMIZED_DATASETS=[str(tmp_path / "text.txt")],
    )


def test_the_plan_depends_on_the_files(config, tmp_path):
    plan = pretrain_artifact(completed(config))
    copy = write_checkpoint(tmp_path / "copy", *ALL["bert"][:1], **ALL["bert"][1])
    config.PRETRAIN.START_FROM = str(copy)
    assert pretrain_artifact(completed(config)).fingerprint == plan.fingerprint
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    other = pretrain_artifact(completed(config))
    assert other.fingerprint != plan.fingerprint
    assert other.inputs.keys() == plan.inputs.keys()
    changed = {key for key, value in plan.inputs.items() if other.inputs[key] != value}
    assert changed == {"PRETRAIN.START_FROM"}
    (copy / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="no weights in"):
        pretrain_artifact(completed(config))


def test_all_doors_plan_the_same_dataset(config):
    named = dataset_artifact(completed(config)).directory
    assert dataset_artifact(completed_for_data(config)).directory == named


def test_a_run_of_ours_is_found_by_its_id(config, tmp_path, folders):
    run = tmp_path / "root" / "saved_models" / "pretrain" / "data" / "mine"
    run.mkdir(parents=True)
    config.PRETRAIN.START_FROM = "mine"
    [problem] = complete(config.clone())
    assert "or a finished run" in problem
    (run / "model").symlink_to(folders["bert"].absolute())
    for name in ("mine", str(run)):
        config.PRETRAIN.START_FROM = name
        assert completed(config).TOKENIZER.NAME_OR_PATH == str(run / "model")
    other = run.parents[1] / "other"
    other.symlink_to(run.parent)
    config.PRETRAIN.START_FROM = "mine"
    [problem] = complete(config.clone())
    assert "several runs have the ID mine" in problem


def test_the_estimate_counts_all_rows_and_positions(config):
    found = completed(config)
    run = started(Path(config.PRETRAIN.START_FROM), length=found.DATASET.MAX_SEQ_LENGTH)
    count = sum(p.numel() for p in run.model.parameters()) - 32 * run.model.num_padding_rows
    assert model_bytes(found, 999) == 4 * count
    [size] = [note for note in pretrain_estimate(found).notes if "parameters" in note]
    assert size.startswith(f"{count:,} parameters")


def test_another_tokenizer_is_known_in_the_plan(config, tmp_path):
    config.TOKENIZER.DO_LOWER_CASE = False
    other, same = write_tokenizer(tmp_path / "other", 50), write_tokenizer(tmp_path / "same")
    for key, value, is_said in (
        ("NAME_OR_PATH", str(other), True),
        ("TRAIN", True, True),
        ("NAME_OR_PATH", str(same), False),
    ):
        changed = config.clone()
        changed.TOKENIZER[key] = value
        check_machine(completed(changed))
        notes = pretrain_estimate(completed(changed)).notes
        assert is_said == any("vocabulary" in note for note in notes)


# --- flags -----------------------------------------------------------------------------------


def test_flags_are_completed_too(folders, capsys):
    paths = ["--dataset_path=d", "--output_dir=o", f"--start_from={folders['modernbert']}"]
    args = parse_flags(paths)
    assert (args.hidden_size, args.attention_window, args.use_bias) == (32, 6, False)
    with pytest.raises(SystemExit):
        parse_flags([*paths, "--hidden_size=64"])
    assert "--hidden_size: got 64, but --start_from has 32" in capsys.readouterr().err
