"""Another run that is at work on a folder, in a thread of the test."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.store import ownership

PATIENCE_SECONDS = 30


@contextmanager
def other_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Has the folder from the beginning; works as soon as somebody waits for that, and ends."""
    has_it, is_waited_for = threading.Event(), threading.Event()

    def run():
        with ownership.owned(folder, print):
            has_it.set()
            assert is_waited_for.wait(PATIENCE_SECONDS)
            work()

    def sleep(seconds):
        if seconds == ownership.WAIT_SECONDS:
            is_waited_for.set()
        time.sleep(0.01)

    monkeypatch.setattr(ownership, "time", SimpleNamespace(sleep=sleep))
    thread = threading.Thread(target=run)
    thread.start()
    assert has_it.wait(PATIENCE_SECONDS)
    yield
    thread.join()
