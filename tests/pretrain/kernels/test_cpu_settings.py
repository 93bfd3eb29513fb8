"""Threads spin briefly unless the user has said how they are to wait."""

import pytest

from pretrain.kernels.cpu_settings import SPIN_COUNT, spin_briefly


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, str(SPIN_COUNT)),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "passive"}, None),
    ],
)
def test_the_environment_wins(monkeypatch, environment, expected):
    found = dict(environment)
    monkeypatch.setattr("os.environ", found)
    spin_briefly()
    assert found.get("GOMP_SPINCOUNT") == expected
