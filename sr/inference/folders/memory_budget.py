"""A bound on the pixels in memory at once."""

import threading


class Closed(Exception):
    """The budget was closed while a thread waited."""


class MemoryBudget:
    """Room for `limit` pixels. A larger image is admitted alone. Turns are served in order, so none can starve."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._used = self._turn = 0
        self._closed = False
        self._changed = threading.Condition()

    def take(self, pixels: int, *, turn: int) -> None:
        """Wait for room, and for all turns before this one. Raises Closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or (turn == self._turn and self._fits(pixels)))
            if self._closed:
                raise Closed
            self._used, self._turn = self._used + pixels, self._turn + 1
            self._changed.notify_all()

    def give(self, pixels: int) -> None:
        """Return what `take` took."""
        with self._changed:
            self._used -= pixels
            self._changed.notify_all()

    def close(self) -> None:
        """Make all waiting and later calls of `take` raise Closed."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _fits(self, pixels: int) -> bool:
        return self._used == 0 or self._used + pixels <= self.limit
