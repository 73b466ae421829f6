"""Imported by Python at its start where this folder is in PYTHONPATH: `time.time` plus the offset in CLOCK_FILE.

The monotonic clock, the clock of C++ code and the times of files stay as they are: a preloaded library that changes
them (libfaketime 0.9.10) makes `time.sleep` fail.
"""

import contextlib
import os
import time
from pathlib import Path

_time, _file = time.time, os.environ.get("CLOCK_FILE", "")


def shifted() -> float:
    """Return the time of the host, in seconds since 1970."""
    offset = 0
    with contextlib.suppress(OSError, ValueError):  # read while it is replaced
        offset = int(Path(_file).read_text())
    return _time() + offset


if _file:
    time.time = shifted
    time.time_ns = lambda: int(shifted() * 1e9)
