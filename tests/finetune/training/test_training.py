"""The training of one classifier: faster layers that compute the same, and the loop around them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from finetune.data.demo_glue import write_demo_glue
from finetune.data.encoding import load_tokenizer
from finetune.data.tasks import find_task
from finetune.data.tokens import Encoded
from finetune.search.job_folder import InputPaths, TrainingSettings
from finetune.task_types.task_types import type_of
from finetune.training import acceleration
from finetune.training.acceleration import accelerate
from finetune.training.classifiers import build_classifier, usable_length
from finetune.training.device_model import DeviceModel
from finetune.training.encoded_splits import load_encoded
from finetune.training.loop import _Trainer, plan_steps, train
from finetune.training.schedules import SCHEDULES, make_schedule, warmup_steps
from finetune.training.training import finetune_task

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = TrainingSettings(
    epochs=2,
    batch_size=32,
    learning_rate=1e-3,
    seed=1,
    max_seq_length=32,
    weight_decay=0.1,
    warmup=0.06,
    lr_scheduler_type="polynomial",
    max_grad_norm=1.0,
    eval_batch_size=16,
)

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 24,
    "pad_token_id": 1,
    "num_labels": 3,
}
GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 24, "pad_token_id": 1}
SMALL = {"bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
# Architecture -> its config; those with an attention of their own are there too.
ARCHITECTURES = {
    "bert": SIZES,
    "roberta": SIZES,
    "roberta-prelayernorm": SIZES,
    "xlm-roberta": SIZES,
    "camembert": SIZES,
    "data2vec-text": SIZES,
    "electra": SIZES | {"embedding_size": 16},
    "albert": SIZES | {"embedding_size": 8},
    "distilbert": SIZES | {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24},
    "modernbert": SIZES | SMALL | {"local_attention": 4, "global_attn_every_n_layers": 2},
    "deberta-v2": SIZES | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "mpnet": SIZES,
    "esm": SIZES | {"position_embedding_type": "absolute", "mask_token_id": 3},
    "gpt2": SIZES | GPT | SMALL,
    "extreme-bert": SIZES,
}


def first(data: Encoded, number: int) -> Encoded:
    """Returns the first `number` samples."""
    offsets = data.offsets[: number + 1]
    columns = {name: flat[: offsets[-1]] for name, flat in data.columns.items()}
    return replace(data, columns=columns, offsets=offsets, labels=data.labels[:number])


NO_DROPOUT = dict.fromkeys(
    (
        *("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "dropout"),
        *("attention_dropout", "seq_classif_dropout", "embedding_dropout", "mlp_dropout"),
        *("embd_pdrop", "attn_pdrop", "resid_pdrop", "classifier_dropout_prob"),
    ),
    0.0,
)


def build(name: str, **changes):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from pretrain.model.modeling_extremebert import register

    register()
    config = AutoConfig.for_model(name, **(ARCHITECTURES[name] | changes))
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config)


def inputs(padded: bool = True) -> dict[str, torch.Tensor]:
    ids = torch.randint(4, 50, (4, 12), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([12, 9, 3, 11]) if padded else torch.full((4,), 12)
    mask = torch.arange(12) < lengths[:, None]
    return {"input_ids": ids.where(mask, torch.tensor(1)), "attention_mask": mask.long()}


def gradients(model, batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    logits = model(**batch).logits
    logits.pow(2).sum().backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return logits.detach(), found


@pytest.fixture(autouse=True)
def device(request, monkeypatch):
    """The CPU, also where there are GPUs, but for the test that needs one."""
    if "gpu" not in request.node.name:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setenv("DS_ACCELERATOR", "cpu")


# --- faster layers ------------------------------------------------------------------------------


@pytest.fixture
def onednn(monkeypatch):
    """Faster layers wherever the test runs, if torch has them."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("torch without oneDNN")
    monkeypatch.setattr("pretrain.kernels.linear.prefers_onednn", lambda: True)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_faster_layers_compute_the_same(onednn, name):
    stock, fast = (build(name, **NO_DROPOUT) for _ in range(2))
    accelerate(fast, half=False)
    assert stock.state_dict().keys() == fast.state_dict().keys()
    for batch in (inputs(), inputs(padded=False)):
        with torch.no_grad():
            ours, theirs = fast.eval()(**batch).logits, stock.eval()(**batch).logits
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        (ours, of_ours), (theirs, of_theirs) = (
            gradients(model.train(), batch) for model in (fast, stock)
        )
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        for parameter, gradient in of_theirs.items():
            torch.testing.assert_close(of_ours[parameter], gradient, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["bert", "modernbert", "deberta-v2", "gpt2", "extreme-bert"])
def test_half_precision_is_close_in_training_and_out_of_the_way_in_evaluation(onednn, name):
    stock, fast = (build(name, **NO_DROPOUT) for _ in range(2))
    accelerate(fast, half=True)
    with torch.no_grad():
        ours, theirs = fast.eval()(**inputs()).logits, stock.eval()(**inputs()).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    (ours, of_ours), (theirs, of_theirs) = (
        gradients(model.train(), inputs()) for model in (fast, stock)
    )
    assert (ours - theirs).abs().max() < 0.02 * theirs.abs().max() + 0.01
    error = sum((of_ours[n] - g).norm() ** 2 for n, g in of_theirs.items()) ** 0.5
    assert error < 0.05 * sum(g.norm() ** 2 for g in of_theirs.values()) ** 0.5


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", ["bert", "distilbert", "modernbert"])
def test_attention_is_dropped_in_training_alone(onednn, name, half):
    rates = NO_DROPOUT | {"attention_probs_dropout_prob": 0.2, "attention_dropout": 0.2}
    model = build(name, initializer_range=0.5, **rates)
    accelerate(model, half)
    batch = {key: value[1:2].repeat(8, 1) for key, value in inputs().items()}
    with torch.no_grad():
        assert model.train()(**batch).logits.std(0).min() > 1e-3
        assert model.eval()(**batch).logits.std(0).max() < 1e-5


def test_what_is_saved_is_the_stock_model(tmp_path):
    stock, fast = build("bert"), build("bert")
    accelerate(fast)
    stock.save_pretrained(tmp_path / "stock")
    fast.save_pretrained(tmp_path / "fast")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "fast" / name).read_bytes() == (tmp_path / "stock" / name).read_bytes()


# --- lengths ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_samples_are_as_long_as_the_model_can_take(name):
    model = build(name).eval()
    length = usable_length(model, 100)
    counts_from_padding = "roberta" in name or name in (
        "camembert",
        "data2vec-text",
        "mpnet",
        "esm",
    )
    assert length == (22 if counts_from_padding else 24)
    assert usable_length(model, 10) == 10
    ids = torch.full((1, length), 5)
    with torch.no_grad():
        assert model(input_ids=ids).logits.isfinite().all()


def test_a_model_without_a_limit_takes_what_is_wanted():
    from transformers import XLNetConfig, XLNetForSequenceClassification

    config = XLNetConfig(vocab_size=50, d_model=16, n_layer=1, n_head=2, d_inner=16)
    assert usable_length(XLNetForSequenceClassification(config), 300) == 300


# --- learning rates -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule(name):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = make_schedule(name, optimizer, 0.1, 100)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert all(0 <= rate <= 1e-3 * 1.01 for rate in rates) and max(rates) == pytest.approx(1e-3)
    if name in ("polynomial", "linear"):
        expected = [min(i / 10, (100 - i) / 90) * 1e-3 for i in range(100)]
        assert rates == pytest.approx(expected)


def test_warmup_is_a_share_or_a_number_of_steps():
    assert [warmup_steps(warmup, 101) for warmup in (0, 0.06, 0.5, 1, 20)] == [0, 7, 51, 1, 20]


# --- plans --------------------------------------------------------------------------------------


def test_when_a_training_is_evaluated():
    def evaluations(**changes):
        plan = plan_steps(replace(SETTINGS, **changes), 100)  # 4 steps per epoch
        return plan.num_steps, sorted(plan.evaluations)

    assert evaluations() == (8, [])
    assert evaluations(eval_steps=3) == (8, [3, 6])
    assert evaluations(eval_steps=3, keep_best=True) == (8, [3, 6, 8])
    assert evaluations(evals_per_epoch=2) == (8, [2, 4, 6, 8])
    assert evaluations(epochs=0.6, evals_per_epoch=1) == (3, [3])
    assert evaluations(evals_per_epoch=9)[1] == list(range(1, 9))


# --- runs ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def glue(tmp_path_factory):
    folder = tmp_path_factory.mktemp("glue")
    write_demo_glue(folder)
    return str(folder)


def run(tiny_model, glue, task="MRPC", **changes):
    source = InputPaths(tiny_model, tiny_model, glue)
    return finetune_task(find_task(task), source, replace(SETTINGS, **changes), lambda line: None)


def weights(outcome) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in outcome.model.state_dict().items()}


@pytest.mark.slow
def test_a_run_learns_and_does_not_depend_on_those_before_it(tiny_model, glue):
    changes = {"task": "SST-2", "epochs": 4, "learning_rate": 3e-3}
    first = run(tiny_model, glue, **changes)
    mine = weights(first)
    run(tiny_model, glue, "STS-B", seed=5, epochs=1)
    again = run(tiny_model, glue, **changes)
    assert all(torch.equal(weight, mine[name]) for name, weight in weights(again).items())
    assert again.dev == first.dev and again.history == first.history
    assert list(again.predictions.values()) == list(first.predictions.values())
    other = run(tiny_model, glue, **changes | {"seed": 2})
    assert any(not torch.equal(weight, mine[name]) for name, weight in weights(other).items())

    losses = [point["loss"] for point in first.history]
    assert losses[-1] < 0.8 * losses[0] and first.dev["dev"]["accuracy"] > 0.75
    assert len(losses) == 40 and first.history[-1]["epoch"] == 4
    train = load_encoded(find_task("SST-2"), "train", glue, tiny_model, 32, True)
    assert first.counts["num_steps"] == 52
    assert first.counts["num_tokens"] == 4 * train.lengths.sum()
    assert first.majority["score"] == pytest.approx(0.5, abs=0.1)


def test_accumulated_gradients_are_those_of_the_batch(tiny_model, glue, monkeypatch):
    monkeypatch.setattr(acceleration, "prefers_bf16", lambda: False)  # it would drown in rounding

    def trained(number):
        task = find_task("MRPC")
        model = build_classifier(tiny_model, task, 0)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        data = first(load_encoded(task, "train", glue, tiny_model, 32, True), 45)
        settings = replace(SETTINGS, accumulation_steps=number)
        on_device = DeviceModel(model, load_tokenizer(tiny_model))
        train(on_device, data, settings, type_of(task), None, lambda step: 0.0, lambda line: None)
        return model.state_dict()

    whole, parts = trained(1), trained(3)
    for name, weight in whole.items():
        torch.testing.assert_close(parts[name], weight, atol=2e-4, rtol=1e-3)


def test_matrices_decay_and_gradients_are_clipped(tiny_model, glue):
    task, norms = find_task("MRPC"), []
    data = first(load_encoded(task, "train", glue, tiny_model, 32, True), 32)
    on_device = DeviceModel(build_classifier(tiny_model, task, 0), load_tokenizer(tiny_model))
    for limit in (0.0, 1e-3):
        settings = replace(SETTINGS, max_grad_norm=limit)
        trainer = _Trainer(on_device, data, settings, type_of(task), None, lambda line: None)
        decayed, others = (group["params"] for group in trainer.optimizer.param_groups)
        assert min(weight.ndim for weight in decayed) == 2
        assert {weight.ndim for weight in others} == {1}
        assert len(decayed + others) == len(list(on_device.model.parameters()))

        def note_norm(*_, weights=decayed + others):
            found = [weight.grad for weight in weights if weight.grad is not None]
            norms.append(torch.nn.utils.get_total_norm(found).item())

        trainer.optimizer.register_step_pre_hook(note_norm)
        trainer.step(np.arange(32))
    assert norms[0] > 0.1 and norms[1] == pytest.approx(1e-3, rel=1e-2)


def test_a_batch_that_does_not_fit_is_taken_in_parts(tiny_model, glue, monkeypatch):
    """And from then on as if it had been asked for; what fails is a real allocation."""
    task, lines = find_task("MRPC"), []
    data = first(load_encoded(task, "train", glue, tiny_model, 32, True), 45)
    logits = DeviceModel.logits

    def logits_of_few(on_device, batch):
        if on_device.model.training and len(batch["input_ids"]) > 8:
            torch.empty(1 << 46, dtype=torch.uint8)
        return logits(on_device, batch)

    def trained(settings):
        model = build_classifier(tiny_model, task, 0)
        on_device = DeviceModel(model, load_tokenizer(tiny_model))
        train(on_device, data, settings, type_of(task), None, lambda step: 0.0, lines.append)
        return model.state_dict()

    asked = trained(replace(SETTINGS, accumulation_steps=4))
    del lines[:]
    monkeypatch.setattr(DeviceModel, "logits", logits_of_few)
    found = trained(SETTINGS)
    assert [line for line in lines if "memory" in line] == [
        f"out of memory: batches are accumulated in {number} parts from now" for number in (2, 4)
    ]
    assert all(torch.equal(weight, found[name]) for name, weight in asked.items())
    monkeypatch.setattr(DeviceModel, "logits", lambda *_: torch.empty(1 << 46, dtype=torch.uint8))
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        trained(SETTINGS)


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step")  # of the scaler's skipped step
def test_an_overflow_that_the_loss_scaler_skips_does_not_end_a_run(tiny_model, glue, monkeypatch):
    """As on a GPU without bf16, with torch's own scaler; without a scaler the weights are lost."""
    data = first(load_encoded(find_task("MRPC"), "train", glue, tiny_model, 32, True), 256)
    logits, calls, task_type = DeviceModel.logits, [], type_of(find_task("MRPC"))

    def overflowing(on_device, batch):
        calls.append(batch)
        factor = float("inf") if len(calls) in bad_steps else 1.0
        return logits(on_device, batch) * factor

    def trained(dtype):
        calls.clear()
        model = build_classifier(tiny_model, find_task("MRPC"), 0)
        on_device = DeviceModel(model, load_tokenizer(tiny_model))
        on_device.dtype = dtype
        training = train(on_device, data, SETTINGS, task_type, None, lambda step: 0.0, str)
        return on_device.model.state_dict(), training.history

    monkeypatch.setattr(DeviceModel, "logits", overflowing)
    bad_steps = {3}
    with pytest.raises(ValueError, match="not finite by step 3: training diverged"):
        trained(torch.float32)
    with monkeypatch.context() as patch:
        patch.setattr("finetune.training.loop.HISTORY_POINTS", 8)  # two steps each
        weights, history = trained(torch.float16)
    assert all(weight.isfinite().all() for weight in weights.values())
    assert len(history) == 8 and all(0.5 < point["loss"] < 1 for point in history)
    bad_steps = {3, 4}
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="by step 4"):
        patch.setattr("finetune.training.loop.HISTORY_POINTS", 8)
        trained(torch.float16)


def test_of_several_gpus_one_is_used(tiny_model, monkeypatch):
    """A batch that they shared would be computed outside of the loss scaler's precision."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr("finetune.training.device_model.device_type", lambda: "cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *_: self)
    model = build_classifier(tiny_model, find_task("MRPC"), 0)
    on_device = DeviceModel(model, load_tokenizer(tiny_model))
    assert on_device.model is model and on_device.device == torch.device("cuda")
    assert on_device.dtype is torch.float16 and on_device.needs_scaler


def test_predictions_that_do_not_fit_are_made_in_smaller_batches(tiny_model, glue, monkeypatch):
    on_device = DeviceModel(
        build_classifier(tiny_model, find_task("MRPC"), 0), load_tokenizer(tiny_model)
    )
    data = load_encoded(find_task("MRPC"), "dev", glue, tiny_model, 32, True)
    expected, logits = on_device.predict(data, 4096), DeviceModel.logits

    def logits_of_few(on_device, batch):
        if batch["input_ids"].numel() > 300:
            torch.empty(1 << 46, dtype=torch.uint8)
        return logits(on_device, batch)

    monkeypatch.setattr(DeviceModel, "logits", logits_of_few)
    np.testing.assert_allclose(on_device.predict(data, 4096), expected, atol=1e-5)
    assert on_device.most_tokens == 256


def test_predictions_do_not_depend_on_the_batches(tiny_model, glue):
    task = find_task("MRPC")
    model = build_classifier(tiny_model, task, 0)
    on_device = DeviceModel(model, load_tokenizer(tiny_model))
    data = load_encoded(task, "dev", glue, tiny_model, 32, True)
    large, small = on_device.predict(data, 4096), on_device.predict(data, 1)
    assert large.shape == (len(data), 2) and large.dtype == np.float32
    np.testing.assert_allclose(large, small, atol=1e-5)


def test_the_best_weights_are_kept_and_training_ends_early(tiny_model, glue):
    task = find_task("MRPC")
    scores = {2: 0.5, 4: 0.9, 6: 0.7, 8: 0.6, 10: 0.95}
    model = build_classifier(tiny_model, task, 0)
    on_device = DeviceModel(model, load_tokenizer(tiny_model))
    data = load_encoded(task, "train", glue, tiny_model, 32, True)
    settings = replace(SETTINGS, eval_steps=2, keep_best=True, patience=2)
    seen, lines = {}, []

    def evaluate(step):
        seen[step] = {name: weight.clone() for name, weight in model.state_dict().items()}
        return scores[step]

    training = train(on_device, data, settings, type_of(task), None, evaluate, lines.append)
    assert [(e["step"], e["score"]) for e in training.evaluations] == list(scores.items())[:4]
    assert training.num_steps == 8 and lines[-1].startswith("the weights of step 4 are kept")
    assert all(torch.equal(w, seen[4][name]) for name, w in model.state_dict().items())
    assert any(not torch.equal(w, seen[8][name]) for name, w in model.state_dict().items())


def test_a_regression_and_its_evaluations(tiny_model, glue):
    lines = []
    source = InputPaths(tiny_model, tiny_model, glue)
    settings = replace(SETTINGS, evals_per_epoch=1)
    outcome = finetune_task(find_task("STS-B"), source, settings, lines.append)
    assert [e["epoch"] for e in outcome.evaluations] == [1, 2] and outcome.majority == {}
    assert any("eval_dev_loss" in line and "eval_dev_pearson" in line for line in lines)
    last = outcome.evaluations[-1]["score"]
    assert last == pytest.approx(np.mean(list(outcome.dev["dev"].values())))


@pytest.mark.parametrize("rate", [1e6, 1e30])
def test_a_training_that_diverges_says_so(tiny_model, glue, rate):
    with pytest.raises(ValueError, match="training diverged"):
        run(tiny_model, glue, learning_rate=rate, weight_decay=10.0, max_grad_norm=0.0, warmup=0)


@pytest.mark.slow
def test_a_head_of_another_task_is_drawn_anew(tiny_model, glue, tmp_path):
    run(tiny_model, glue, "MNLI", epochs=1).model.save_pretrained(tmp_path / "model")
    for task in ("RTE", "STS-B"):
        source = InputPaths(str(tmp_path / "model"), tiny_model, glue)
        outcome = finetune_task(find_task(task), source, SETTINGS, lambda line: None)
        assert outcome.model.config.num_labels == (2 if task == "RTE" else 1)


def test_a_head_follows_the_words_of_its_labels(tiny_model, tmp_path):
    mnli, cb = find_task("MNLI"), find_task("CB")
    assert set(mnli.labels) == set(cb.labels) and list(mnli.labels) != list(cb.labels)
    build_classifier(tiny_model, mnli, seed=1).save_pretrained(tmp_path)

    def rows(task) -> dict[str, torch.Tensor]:
        head = build_classifier(str(tmp_path), task, seed=2).classifier.out_proj
        return dict(zip(task.labels, head.weight, strict=True))

    ours, theirs = rows(mnli), rows(cb)
    assert all(torch.equal(ours[word], theirs[word]) for word in ours)
    other = replace(cb, labels={"low": "low", "middle": "middle", "high": "high"})
    assert not torch.equal(rows(other)["low"], ours[next(iter(ours))])


def test_a_run_of_a_single_step(tiny_model, glue):
    outcome = run(tiny_model, glue, batch_size=1000, epochs=1)
    assert outcome.counts["num_steps"] == 1
    assert outcome.history[0]["learning_rate"] == SETTINGS.learning_rate


def test_a_model_without_a_padding_token(tiny_model, glue, tmp_path):
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer.from_file(f"{tiny_model}/tokenizer.json")
    words.no_padding()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="[SEP]").save_pretrained(tmp_path)
    build("gpt2", vocab_size=words.get_vocab_size(), pad_token_id=None).save_pretrained(tmp_path)
    outcome = run(str(tmp_path), glue, "RTE", epochs=1, max_seq_length=100)
    assert outcome.model.config.pad_token_id == words.token_to_id("[SEP]")
    assert outcome.counts["num_steps"] == 13


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_trains_in_half_precision(tiny_model, glue):
    changes = {"task": "SST-2", "epochs": 4, "learning_rate": 3e-3, "accumulation_steps": 2}
    outcome = run(tiny_model, glue, **changes, evals_per_epoch=1, keep_best=True)
    assert outcome.model.device.type == "cuda" and outcome.dev["dev"]["accuracy"] > 0.75
    assert outcome.history[-1]["loss"] < 0.8 * outcome.history[0]["loss"]
