"""The memory of this process."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def keep_memory() -> None:
    """Let glibc keep what is freed, as torch does on a GPU: the next step, or image, needs it again, and to hand it
    back and take it anew, page by page, costs time in every one. What it costs: the process stays as large as it was.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
