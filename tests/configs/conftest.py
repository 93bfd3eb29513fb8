"""Fixtures that load a config from text, in a working directory of its own."""

from collections.abc import Callable

import pytest
from yacs.config import CfgNode

from configs.loading import load_config
from pipeline.errors import ConfigError

# Nothing is checked that only a stage needs.
NO_STAGE = ()


@pytest.fixture
def load(tmp_path, monkeypatch) -> Callable[..., CfgNode]:
    """load(text, *overrides, stages=...): the config of ./config.yaml with that text."""
    monkeypatch.chdir(tmp_path)

    def load_text(text: str | bytes, *overrides: str, stages=NO_STAGE) -> CfgNode:
        content = text if isinstance(text, bytes) else text.encode()
        (tmp_path / "config.yaml").write_bytes(content)
        return load_config("config.yaml", overrides, stages)

    return load_text


@pytest.fixture
def problems(load) -> Callable[..., list[str]]:
    """problems(text, *overrides, stages=...): the problems of a config that is refused."""

    def problems_of_text(text: str | bytes, *overrides: str, stages=NO_STAGE) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(text, *overrides, stages=stages)
        return caught.value.problems

    return problems_of_text
