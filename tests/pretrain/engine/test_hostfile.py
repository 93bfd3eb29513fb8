"""DeepSpeed's hostfile."""

import pytest

from pipeline.errors import ConfigError
from pretrain.engine.hostfile import read_hostfile


def test_servers_and_slots(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("# two servers\nalpha slots=8\n\nbeta  slots=4 # half of it\n")
    assert read_hostfile(path) == {"alpha": 8, "beta": 4}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("alpha slots=8\nbeta 8\n", r"line 2: got 'beta 8', expected `server slots=N`"),
        ("alpha slots=0\n", "line 1"),
        ("alpha slots=1\nalpha slots=2\n", "line 2"),
        ("# none\n", "names no server"),
    ],
)
def test_a_bad_line_is_named(tmp_path, text, said):
    path = tmp_path / "hosts"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_hostfile(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_hostfile(tmp_path / "none")
