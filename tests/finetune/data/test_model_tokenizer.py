"""A checkpoint whose tokenizer.json and class read words in two ways is not finetuned."""

import json

import pytest

from finetune.data.encoding import load_tokenizer
from finetune.data.model_tokenizer import check_agreement
from finetune.data.tasks import find_task
from finetune.training.encoded_splits import load_encoded
from pipeline.errors import StageError


@pytest.fixture
def planted(tiny_model, tmp_path):
    """tiny_model's tokenizer, whose file keeps the case, while its class lower-cases."""
    from pathlib import Path

    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((Path(tiny_model) / name).read_bytes())
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["normalizer"]["lowercase"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    return str(tmp_path)


def test_what_transformers_saves_is_read_in_one_way(tiny_model):
    check_agreement(tiny_model, load_tokenizer(tiny_model), [("A dog.", "The CAT"), ("x", "y")])


def test_a_difference_is_an_error_with_the_text_and_both_results(planted):
    texts = [("the", "."), ("a The", "the")]
    with pytest.raises(StageError) as found:
        check_agreement(planted, load_tokenizer(planted), texts)
    assert found.value.cause.startswith(f"{planted}: `The` is [UNK] (1) to tokenizer.json, but ")
    assert "to BertTokenizer, which transformers makes of it" in found.value.cause
    assert '"tokenizer_class": "PreTrainedTokenizerFast"' in found.value.cause


def test_each_split_of_a_task_is_looked_at(planted, tmp_path):
    (tmp_path / "RTE").mkdir()
    table = "index\tsentence1\tsentence2\tlabel\n0\ta The\tthe\tentailment\n"
    (tmp_path / "RTE/train.tsv").write_text(table)
    with pytest.raises(StageError, match=r"to tokenizer\.json, but"):
        load_encoded(find_task("RTE"), "train", str(tmp_path), planted, 32, False)


def test_a_checkpoint_without_tokenizer_json_has_one_reader(tiny_model, tmp_path):
    from pathlib import Path

    for name in ("config.json", "vocab.txt", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((Path(tiny_model) / name).read_bytes())
    check_agreement(str(tmp_path), load_tokenizer(str(tmp_path)), [("a The",)])
