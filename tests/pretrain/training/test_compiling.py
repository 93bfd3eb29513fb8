"""What COMPILE compiles under the real engine and loop; what autocast casts there, and clipping."""

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from pretrain.model.model import build_model
from pretrain.training.compiling import repeated_layers
from tests.forked import start
from tests.pretrain import loop_counts
from tests.pretrain.model.test_model import LABELS, MODERN, example_batch, model_args

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def children(tmp_path_factory):
    """Two processes that measure runs of tests.pretrain.loop_counts; other tests run meanwhile."""
    found = []
    for names in (["clipped", "fp32", "compiled fp32"], ["autocast", "compiled autocast"]):
        folder = tmp_path_factory.mktemp("loop")
        found.append(start(loop_counts.measure, names, folder, output=folder / "output.txt"))
    yield found
    for child in found:
        child.kill()


@pytest.fixture(scope="module")
def counts(children):
    """The numbers of tests.pretrain.loop_counts by run."""
    return children[0].result() | children[1].result()


@pytest.mark.parametrize(
    ("settings", "graphs"),
    [
        ({"gradient_checkpointing": True}, 1),
        (MODERN, 2),  # its first layer has a norm less
    ],
)
def test_layers_of_one_kind_share_a_graph(settings, graphs):
    model = build_model(model_args(**settings)).train()
    torch._dynamo.reset()
    counters.clear()
    for layer in repeated_layers(model):
        layer.compile(backend="aot_eager")
    *inputs, index = example_batch()
    for number in (4, 3, 1):
        model(*inputs, index[:number], LABELS[:number]).backward()
    assert counters["stats"]["unique_graphs"] == graphs
    assert not counters["graph_break"]


def test_the_layers_are_the_longest_list_of_modules_of_one_class():
    mixed = nn.ModuleList([nn.Linear(2, 2), nn.ReLU(), nn.ReLU(), nn.ReLU()])
    layers, few = (nn.ModuleList(nn.Linear(2, 2) for _ in range(n)) for n in (3, 2))
    model = nn.ModuleDict({"mixed": mixed, "few": few, "layers": layers, "none": nn.ModuleList()})
    assert repeated_layers(model) == list(layers)
    alone = nn.Linear(2, 2)
    assert repeated_layers(alone) == [alone]


# --- in real runs -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "autocast"])
def test_all_layers_are_one_graph_whatever_the_number_of_predictions(counts, precision):
    plain, compiled = counts[precision], counts[f"compiled {precision}"]
    assert (compiled["graphs"], compiled["breaks"], compiled["recompiled"]) == (1, 0, 0)
    assert compiled["losses"] == pytest.approx(plain["losses"], abs=1e-4)
    assert plain["graphs"] == 0


def test_autocast_casts_each_weight_once_in_the_four_micro_batches_of_a_step(counts):
    """Of 3 layers 4 matrices and 4 biases; the head's 2, its output's bias, and the embeddings."""
    assert counts["autocast"]["casts"] == 1
    assert counts["autocast"]["cast_weights"] == 3 * 8 + 3
    assert counts["fp32"]["casts"] == 0


def test_a_clipped_gradient_has_the_norm_that_was_asked_for(counts):
    """Plain SGD moves the weights by the gradient, times a rate of 0.5."""
    assert counts["clipped"]["moved"] == pytest.approx([0.5 * 0.01] * 4, rel=1e-3)
