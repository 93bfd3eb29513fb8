"""Models that somebody else made: no pickle and no module of theirs is run."""

import json
import pickle
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from finetune import run_glue
from finetune.data.demo_glue import write_demo_glue
from finetune.data.encoding import load_tokenizer
from finetune.data.tasks import find_task
from finetune.search.job_folder import InputPaths
from finetune.search.worker import TaskCheck
from finetune.training.classifiers import build_classifier
from pipeline.errors import StageError
from pipeline.hub.models import problem_with_places
from tests.malicious import malicious_module, malicious_pickle

CODE = "modeling_mine.py"


@pytest.fixture
def model(tiny_model, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture
def marker(tmp_path) -> Path:
    return tmp_path / "marker"


def edit(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def with_code(model: Path, marker: Path, **config) -> None:
    """Names code in the folder for the config, the model and the tokenizer."""
    (model / CODE).write_text(malicious_module(marker))
    name = CODE.removesuffix(".py")
    classes = ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification")
    edit(model / "config.json", auto_map=dict.fromkeys(classes, f"{name}.Mine"), **config)
    auto_map = {"AutoTokenizer": [f"{name}.Mine", None]}
    edit(model / "tokenizer_config.json", auto_map=auto_map)


def test_the_pickle_is_malicious(marker):
    pickle.loads(malicious_pickle(marker))
    assert marker.exists()


@pytest.mark.parametrize("as_torch_saves", [False, True])
def test_a_malicious_pickle_is_refused(model, marker, as_torch_saves):
    (model / "model.safetensors").unlink()
    bomb = malicious_pickle(marker)
    (model / "pytorch_model.bin").write_bytes(bomb)
    if as_torch_saves:
        torch.save({"weight": torch.ones(1)}, model / "pytorch_model.bin")
        replace_in_zip(model / "pytorch_model.bin", "data.pkl", bomb)
    with pytest.raises(StageError, match="a pickle that holds more than tensors"):
        build_classifier(str(model), find_task("RTE"), 0)
    with pytest.raises(StageError, match="a pickle that holds more than tensors"):
        TaskCheck(find_task("RTE"), InputPaths(str(model), str(model), ""), 16).run()
    assert not marker.exists()


def replace_in_zip(path: Path, ending: str, content: bytes) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, old in members.items():
            archive.writestr(name, content if name.endswith(ending) else old)


def test_a_pickle_of_tensors_is_read(model):
    expected = build_classifier(str(model), find_task("RTE"), 0).state_dict()
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    found = build_classifier(str(model), find_task("RTE"), 0).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_safetensors_are_preferred(model, marker):
    (model / "pytorch_model.bin").write_bytes(malicious_pickle(marker))
    build_classifier(str(model), find_task("RTE"), 0)
    assert not marker.exists()


def test_an_architecture_of_the_folders_own_is_refused(model, marker):
    with_code(model, marker, model_type="mine")
    with pytest.raises(StageError, match="needs code of its own, which is not run"):
        build_classifier(str(model), find_task("RTE"), 0)
    assert not marker.exists()


def test_beside_an_architecture_of_transformers_the_folders_code_is_not_run(model, marker):
    with_code(model, marker)
    built = build_classifier(str(model), find_task("RTE"), 0)
    assert type(built).__module__.startswith("transformers.")
    assert len(load_tokenizer(str(model))) > 5
    assert not marker.exists()


def test_a_model_exported_here_loads_by_our_own_classes(model, marker):
    from pretrain.model.modeling_extremebert import (
        ExtremeBertConfig,
        ExtremeBertForMaskedLM,
        ExtremeBertForSequenceClassification,
        register,
    )

    register()
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ExtremeBertConfig(
        vocab_size=100,
        max_position_embeddings=64,
        intermediate_size=64,
        norm_type="rmsnorm",
        **size,
    )
    ExtremeBertForMaskedLM(config).save_pretrained(model)
    code = model / "modeling_extremebert.py"
    assert code.exists() and "auto_map" in json.loads((model / "config.json").read_text())
    for path in model.glob("*.py"):
        path.write_text(malicious_module(marker))
    built = build_classifier(str(model), find_task("RTE"), 0)
    assert type(built) is ExtremeBertForSequenceClassification
    assert not marker.exists()


def test_an_index_of_weights_leads_nowhere_else(model):
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}))
    assert problem_with_places(model) == ""
    for name in ("../other/model.safetensors", "/etc/passwd"):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        assert problem_with_places(model) == f"{index} names {name}, expected files of that folder"


def test_run_glue_says_so_in_one_line(model, marker, tmp_path, capsys):
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(malicious_pickle(marker))
    flags = f"--model_name_or_path {model} --task_name RTE --glue_dir {tmp_path} --do_eval"
    assert run_glue.main([*flags.split(), "--output_dir", str(tmp_path / "out")]) == 3
    assert "a pickle that holds more than tensors" in capsys.readouterr().err
    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "some/missing/folder",
            "--model_name_or_path: no such folder, got /.*/some/missing/folder$",
        ),
        ("./missing", "--model_name_or_path: no such folder, got /.*/missing$"),
        (
            "missing/model",
            "--model_name_or_path: model missing/model is not, or not as a whole, ",
        ),
    ],
)
def test_run_glue_says_that_a_folder_is_not_there(tmp_path, capsys, name, expected):
    flags = f"--model_name_or_path {name} --task_name RTE --do_eval --output_dir {tmp_path}/out"
    assert run_glue.main(flags.split()) == 3
    said = capsys.readouterr()
    assert re.match(f"run_glue: {expected}", said.err.strip())
    note = (
        "note: --model_name_or_path: there is no folder missing/model, so it is a name on the Hub"
    )
    assert (note in said.out) == (name == "missing/model")


def test_run_glue_names_the_flag_of_glue(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    flags = f"--model_name_or_path {model} --task_name RTE --do_eval --output_dir {tmp_path}/out"
    assert run_glue.main(flags.split()) == 3
    assert "(--glue_dir of run_glue) is empty, and dataset nyu-mll/glue" in capsys.readouterr().err


def test_run_glue_deletes_no_model_of_others(model, tmp_path, capsys):
    flags = f"--model_name_or_path {model} --task_name RTE --do_train --overwrite_output_dir"
    with pytest.raises(SystemExit) as stop:
        run_glue.main([*flags.split(), "--output_dir", str(tmp_path)])
    assert stop.value.code == 2
    assert f"{model} is no model of this program" in capsys.readouterr().err
    assert (model / "model.safetensors").exists()


# --- a tokenizer that is not the model's -------------------------------------------------------


def with_more_entries(model: Path, number: int) -> None:
    """The tokenizer gets words that the model was not trained with."""
    path = model / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab |= {f"word{i}": len(vocab) + i for i in range(number)}
    path.write_text(json.dumps(tokenizer))
    (model / "vocab.txt").unlink(missing_ok=True)


def test_a_tokenizer_with_more_entries_than_embeddings_is_refused(model, tmp_path):
    size = json.loads((model / "config.json").read_text())["vocab_size"]
    with_more_entries(model, 7)
    expected = f"{model}: the tokenizer has {size + 7:,} entries, the model embeddings for {size:,}"
    write_demo_glue(tmp_path / "glue")
    paths = InputPaths(str(model), str(model), str(tmp_path / "glue"))
    with pytest.raises(StageError, match=re.escape(expected)):
        TaskCheck(find_task("RTE"), paths, 16).run()
