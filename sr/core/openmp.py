"""The wait policy of OpenMP threads."""

import os
from collections.abc import MutableMapping

DEFAULTS = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
USER = (*DEFAULTS, "KMP_BLOCKTIME", "KMP_LIBRARY")


def set_wait_policy(environ: MutableMapping[str, str] = os.environ) -> None:
    """Let threads spin for some microseconds at a barrier and then sleep, unless the user chose a policy.

    By default, GNU's runtime (used by torch's wheels) spins for milliseconds. On a busy machine, the spinning threads
    delay the thread that they wait for. The variables are read when torch is imported, so call this before; child
    processes inherit them. LLVM's and Intel's runtimes read only OMP_WAIT_POLICY.
    """
    if not any(name in environ for name in USER):
        environ.update(DEFAULTS)
