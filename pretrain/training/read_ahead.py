"""Prepares items in a background thread, so that the loop need not wait for them."""

import threading
from collections.abc import Iterator
from queue import Empty, Full, Queue
from typing import Generic, TypeVar

Item = TypeVar("Item")


class ReadAhead(Generic[Item]):
    """Runs an endless iterator in a thread, `num_ahead` items ahead of `get`.

    What the iterator raises is raised again by `get`.
    """

    def __init__(self, items: Iterator[Item], num_ahead: int):
        self.queue: Queue = Queue(maxsize=num_ahead)
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(items,), daemon=True)
        self.thread.start()

    def _run(self, items: Iterator[Item]) -> None:
        try:
            for item in items:
                if not self._put((item, None)):
                    return
        except Exception as error:
            self._put((None, error))

    def _put(self, entry: tuple) -> bool:
        while not self.stopped.is_set():
            try:
                self.queue.put(entry, timeout=0.2)
                return True
            except Full:
                continue
        return False

    def get(self) -> Item:
        item, error = self.queue.get()
        if error:
            raise error
        return item

    def close(self) -> None:
        self.stopped.set()
        while self.thread.is_alive():
            try:
                self.queue.get_nowait()
            except Empty:
                self.thread.join(0.05)
