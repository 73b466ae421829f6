"""Progress on stderr: a bar in a terminal, a line every minute in a log file, nothing with --quiet."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

LOG_SECONDS = 60.0
LINE = "sr: {desc}: {n_fmt} of {total_fmt}, {elapsed} elapsed, {remaining} left, {rate_noinv_fmt}{postfix}"
_quiet = False


def set_quiet(quiet: bool) -> None:
    """Hide, or show again, all progress of this process."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    return _quiet


def progress(iterable: Iterable[Any] | None = None, *, show: bool = True, **settings: Any) -> "tqdm[Any]":
    """Return a tqdm bar over `iterable`. show: False on all ranks but one."""
    if not sys.stderr.isatty():
        lines = {"mininterval": LOG_SECONDS, "delay": LOG_SECONDS, "miniters": 0, "bar_format": LINE, "file": _Lines()}
        settings = {**settings, **lines}
    return tqdm(iterable, disable=_quiet or not show, **settings)


class _Lines:
    """Writes what tqdm draws over a line to stderr as a line of its own."""

    def write(self, text: str) -> None:
        if line := text.strip():
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        sys.stderr.flush()
