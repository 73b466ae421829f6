"""Settings of the memory allocator."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def keep_memory() -> None:
    """Make glibc keep freed memory for reuse, like torch's caching allocator on a GPU.

    Returning memory to the system and faulting it in again page by page costs time in every step or image. In return,
    the process keeps its peak memory footprint.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
