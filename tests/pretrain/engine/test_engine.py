"""A step under autocast: the same gradients with fewer casts, and never of old weights."""

from argparse import Namespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pretrain.engine.engine import weights_cast_once
from pretrain.model.model import build_model
from tests.pretrain.model.test_model import LABELS, example_batch, model_args

ENGINE = Namespace(device=torch.device("cpu"), torch_autocast_enabled=lambda: True)


class Casts(TorchDispatchMode):
    """Counts casts of weights."""

    count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        is_cast = operator.name() == "aten::_to_copy"
        self.count += is_cast and isinstance(args[0], torch.nn.Parameter)
        return operator(*args, **(kwargs or {}))


def new_model(**settings):
    torch.manual_seed(0)
    return build_model(model_args(**settings)).train()


def accumulate(model):
    """The gradients of four micro batches, each in an autocast of its own, as the engine has it."""
    torch.manual_seed(1)
    *inputs, index = example_batch()
    for number in (4, 3, 2, 1):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(*inputs, index[:number], LABELS[:number])
        loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_casting_once_leaves_every_bit_of_the_gradients(checkpointing):
    settings = {"gradient_checkpointing": checkpointing, "hidden_dropout_prob": 0.1}
    models = [new_model(**settings) for _ in range(2)]
    with Casts() as each_time:
        expected = accumulate(models[0])
    with Casts() as once, weights_cast_once(ENGINE):
        found = accumulate(models[1])
    assert each_time.count >= 4 * once.count > 0
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


def test_the_next_step_computes_with_the_new_weights():
    model = new_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    losses = []
    for _ in range(2):
        with weights_cast_once(ENGINE), torch.autocast("cpu", torch.bfloat16):
            losses.append(model(*example_batch(), LABELS))
        with torch.no_grad():
            for module in model.encoder.layers.modules():
                if isinstance(module, torch.nn.Linear):  # norms are not cast
                    module.weight.zero_()
    assert losses[0] != losses[1]
    with torch.autocast("cpu", torch.bfloat16):
        assert model(*example_batch(), LABELS) == losses[1]


@pytest.mark.slow
def test_without_autocast_nothing_is_kept():
    engine = Namespace(device=torch.device("cpu"), torch_autocast_enabled=lambda: False)
    with weights_cast_once(engine), Casts() as casts:
        accumulate(new_model())
    with Casts() as usual:
        accumulate(new_model())
    assert casts.count == usual.count
