"""The short form of the chaos run; the long one: `bash tests/run.sh --chaos`."""

from itertools import islice

import pytest

from tests.chaos.campaign import campaign, figures, schedule
from tests.chaos.faults import KINDS
from tests.chaos.pipeline_folder import STAGES

NUM_FAULTS = 12


@pytest.mark.slow
def test_a_short_campaign_recovers_from_every_fault(tmp_path):
    results = campaign(tmp_path, 0, [*islice(schedule(0), NUM_FAULTS)])
    assert all(result.outcome != "failed" for result in results), "\n".join(map(str, results))
    assert {result.kind for result in results} == set(KINDS)
    assert {result.stage for result in results} == set(STAGES)
    assert f"{NUM_FAULTS} faults: " in figures(results)
