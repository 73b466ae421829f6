"""Graceful shutdown on signals: SIGTERM from a scheduler, SIGINT from a keyboard."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sr.core.errors import UserError


class Stopped(UserError):
    """A signal stopped the run after a checkpoint. The exit code 128 + signal lets a scheduler restart it."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum


_received: list[int] = []


def received() -> str:
    """The name of the first signal that `signals` noted, "" without one."""
    return signal.Signals(_received[0]).name if _received else ""


def forget() -> None:
    """Forget the signals of an earlier run in this process, so that they do not set the exit code of the next one."""
    _received.clear()


def exit_code(code: int) -> int:
    """`code`; 128 + signal after a signal, even if another error followed, so that a scheduler restarts the run."""
    return 128 + _received[0] if _received and code else code


@contextmanager
def signals() -> Iterator[list[int]]:
    """Yield the list of received signals. The first requests a stop after the step; a second SIGINT stops at once."""
    forget()
    seen = _received

    def note(signum: int, frame: Any) -> None:
        if seen and signum == signal.SIGINT:
            raise KeyboardInterrupt
        seen.append(signum)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
