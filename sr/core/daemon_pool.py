"""Threads that do not keep a process alive."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class DaemonPool:
    """A pool of daemon threads with `submit`, like ThreadPoolExecutor.

    The interpreter waits at exit for all threads of a ThreadPoolExecutor, so a read that never returns (a disk behind
    a lost connection) would keep the process alive after an interrupt. It does not wait for these threads.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=f"{name}_{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[..., T], *args: Any) -> "Future[T]":
        future: Future[T] = Future()
        self._tasks.put((future, lambda: function(*args)))
        return future

    def shutdown(self, *, seconds: float | None = None) -> None:
        """Cancel the tasks that have not begun, and wait for the others, for at most `seconds` if given."""
        with suppress(Empty):
            while True:
                if task := self._tasks.get_nowait():
                    task[0].cancel()
        for _ in self._threads:
            self._tasks.put(None)
        until = None if seconds is None else time.monotonic() + seconds
        for thread in self._threads:
            thread.join(None if until is None else max(until - time.monotonic(), 0))

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            future, function = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = function()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
            del task, future, function
