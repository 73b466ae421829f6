"""The wish to stop: SIGTERM from a scheduler, SIGINT from a keyboard."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sr.core.errors import UserError


class Stopped(UserError):
    """A signal ended the run after a finished, saved step; 128 + signal tells a scheduler to start it again."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum


@contextmanager
def signals() -> Iterator[list[int]]:
    """The signals received so far. The first asks for a stop after the step; a second interrupt ends at once."""
    seen: list[int] = []

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
