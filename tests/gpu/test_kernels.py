"""Budgets of kernels and memory, and devices and dtypes, of each recipe at its real size.

The host launches kernels one by one: with small micro batches their number decides how fast a step
is, with large ones the bytes that they write and read.
"""

import pytest
import torch

from tests.gpu.measured import CASES, Pass, Work, run_pass, work
from tests.gpu.recipes import RECIPES, recipe_args

HALF_PRODUCT = (torch.float16, torch.float16)

# Of a micro batch of 4096 tokens; python -m tests.gpu.measured prints what there is.
BUDGETS = {
    ("classic", "full", 128): Work(14, 28, 39, 95, 34.5),
    ("classic", "padded", 128): Work(17, 28, 39, 95, 34.5),
    ("paper", "full", 128): Work(12, 21, 43, 95, 34.5),
    ("paper", "padded", 128): Work(12, 21, 46, 95, 34.5),
    ("paper", "packed", 2048): Work(12, 21, 41, 95, 34.5),
    ("fast", "packed", 128): Work(15, 23, 43, 122, 42),
    ("fast-base", "full", 128): Work(15, 23, 40, 124, 42),
    ("fast-base", "packed", 128): Work(15, 23, 43, 124, 42),
    ("fast-base", "packed", 512): Work(15, 23, 39, 124, 42),
    ("fast-base", "packed", 2048): Work(15, 23, 39, 124, 42),
    ("fast-large", "packed", 128): Work(15, 23, 43, 126, 42),
}


def test_every_recipe_has_a_budget():
    assert BUDGETS.keys() == set(CASES)
    assert {name for name, *_ in CASES} == RECIPES.keys()


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_kernels_and_bytes_of_a_layer(case):
    one, three = (run_pass(*case, layers) for layers in (1, 3))
    _check_devices_and_dtypes(three)
    found = work(one, three, recipe_args(case[0], case[2]).hidden_size)
    budget = BUDGETS[case]
    assert all(n <= limit for n, limit in zip(found, budget, strict=True)), (found, budget)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_the_whole_model_is_as_its_layers(name):
    case = next(case for case in CASES if case[0] == name)
    whole, budget = run_pass(*case), BUDGETS[case]
    _check_devices_and_dtypes(whole)
    layers = recipe_args(name, case[2]).num_hidden_layers
    of_layer = budget.forward + budget.backward
    assert whole.num_kernels <= layers * of_layer + budget.outside


def _check_devices_and_dtypes(done: Pass) -> None:
    for operations in (done.forward, done.backward):
        assert operations.mixed == operations.doubles == set()
        assert set(operations.products) == {HALF_PRODUCT}
