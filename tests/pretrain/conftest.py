"""What several tests of pretraining work with."""

import pytest
import torch


@pytest.fixture
def one_thread():
    """For tiny products, more would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
