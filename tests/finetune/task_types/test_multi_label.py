"""Tasks with several labels per row: loss, decisions, predictions, and the head of a checkpoint."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from finetune.data.examples import Examples
from finetune.data.tasks import Split, Task
from finetune.data.tokens import Encoded
from finetune.task_types.task_types import type_of

DEV = Split("dev", ("dev.csv",))
TASK = Task(
    name="moods",
    text_columns=("text",),
    label_column="label",
    metrics=("f1_micro", "f1_macro", "average_precision"),
    num_train_rows=0,
    train=Split("train", ("train.csv",)),
    dev=(DEV,),
    test=(),
    labels={word: word for word in ("joy", "love", "anger")},
    benchmark="",
    type="multi_label",
)
MULTI = type_of(TASK)
SETS = [(0, 1), (), (0,), (1,)]
LOGITS = np.array([[2, -1, -2], [-3, -4, -5], [1, -2, -3], [0.5, -1.5, -2]], np.float32)


def encoded(sets=SETS, task=TASK) -> Encoded:
    examples = Examples([("text",)] * len(sets), list(sets))
    return Encoded(
        {}, np.arange(len(sets) + 1), type_of(task).label_array(task, examples), examples
    )


def test_the_threshold_is_that_of_the_dev_set_and_decides_scores_and_predictions():
    data = encoded()
    decision = MULTI.decision(TASK, {DEV: LOGITS}, {DEV: data})
    assert decision == {"threshold": 0.15}  # between 0.18, which is true, and 0.12
    predicted = 1 / (1 + np.exp(-LOGITS)) >= 0.15
    labels = data.labels
    assert MULTI.score(TASK, LOGITS, data, decision) == {
        "f1_micro": pytest.approx(f1_score(labels, predicted, average="micro")),
        "f1_macro": pytest.approx(f1_score(labels, predicted, average="macro", zero_division=0)),
        "average_precision": pytest.approx(
            average_precision_score(labels[:, :2], LOGITS[:, :2])  # no row has the third label
        ),
    }


def test_predictions_can_be_read_again():
    task = replace(TASK, separator=" | ")
    found = MULTI.predictions(task, LOGITS, encoded(), {"threshold": 0.15})
    assert found == [("0", "joy | love"), ("1", ""), ("2", "joy"), ("3", "joy | love")]
    no_rows = replace(encoded(), examples=Examples([]))  # a file to predict
    assert MULTI.predictions(task, LOGITS, no_rows, {}) == [
        ("0", "joy"), ("1", ""), ("2", "joy"), ("3", "joy")
    ]  # fmt: skip


def test_the_details_have_each_label():
    found = MULTI.details(TASK, LOGITS, encoded(), {"threshold": 0.5})
    assert found["per_label"]["love"]["rows"] == 2 and found["per_label"]["love"]["f1"] == 0
    assert found["per_label"]["anger"]["average_precision"] is None
    assert found["per_label"]["joy"] == {
        "f1": pytest.approx(0.8), "average_precision": 1.0, "rows": 2, "predicted": 3
    }  # fmt: skip


def test_folds_have_no_threshold_of_their_own():
    task = replace(TASK, num_folds=5)
    assert MULTI.decision(task, {DEV: LOGITS}, {DEV: encoded()}) == {"threshold": 0.5}
    assert MULTI.decision(TASK, {}, {}) == {"threshold": 0.5}


def test_constant_answers():
    baseline = MULTI.majority_baseline(TASK, encoded(), {"dev": encoded([(0, 1), (1,), (1, 0)])})
    micro, macro, precision = 10 / 11, (0.8 + 1) / 3, (2 / 3 + 1) / 2
    score = pytest.approx((micro + macro + precision) / 3)
    assert baseline == {"label": "joy,love", "score": score}
    low, high = np.full((2, 3), -9.0, np.float32), np.full((1, 3), 9.0, np.float32)
    assert MULTI.only_label(TASK, [low], {}) == "no label"
    assert MULTI.only_label(TASK, [high, high], {}) == "joy,love,anger"
    assert MULTI.only_label(TASK, [low, high], {}) == MULTI.only_label(TASK, [high], {}) == ""
    assert MULTI.only_label(TASK, [], {}) == ""


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["bert", "extreme-bert"])
def test_the_loss_is_that_of_transformers(architecture):
    import torch

    from finetune.training.training import mean_loss
    from tests.finetune.training.test_training import build, inputs

    model = build(architecture, problem_type=MULTI.problem_type).eval()
    labels = np.random.default_rng(0).integers(0, 2, (4, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = model(**inputs(), labels=torch.from_numpy(labels))
    ours = mean_loss(MULTI, theirs.logits.numpy(), labels)
    assert ours == pytest.approx(theirs.loss.item(), rel=1e-6)


@pytest.mark.slow
def test_a_head_is_kept_in_the_order_of_the_labels_or_reset(tiny_model, tmp_path):
    import torch

    from finetune.training.classifiers import build_classifier

    def head(model):
        return model.classifier.out_proj.weight

    first = build_classifier(tiny_model, TASK, seed=1)
    assert first.config.problem_type == MULTI.problem_type
    first.save_pretrained(tmp_path)
    turned = replace(TASK, labels={word: word for word in ("anger", "joy", "love")})
    again = build_classifier(str(tmp_path), turned, seed=2)
    assert torch.equal(head(again), head(first)[[2, 0, 1]])
    other = replace(TASK, labels={word: word for word in ("anger", "joy", "fear")})
    reset = build_classifier(str(tmp_path), other, seed=2)
    assert not torch.equal(head(reset), head(first)) and head(reset).std() < 0.05
