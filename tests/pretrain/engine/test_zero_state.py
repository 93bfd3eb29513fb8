"""A state goes from any ZeRO stage to any other, on one rank and on several, without a trace."""

import pytest

from pretrain.engine.ports import free_port
from tests.forked import start_ranks
from tests.pretrain.engine_state_ranks import measure


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_ranks", "precision", "stages"),
    [(2, "fp32", "0123"), (1, "fp16", "123"), (2, "bf16", "1")],
)
def test_training_goes_on_exactly_whatever_the_stage(num_ranks, precision, stages, tmp_path):
    arguments = precision, [int(stage) for stage in stages]
    ranks = start_ranks(measure, num_ranks, free_port(), *arguments, folder=tmp_path)
    results, *_ = [rank.result() for rank in ranks]
    assert len(results) == len(stages) + len(stages) ** 2
    assert len({tuple(losses) for losses in results.values()}) == 1, results
