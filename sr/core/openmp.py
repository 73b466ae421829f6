"""How OpenMP threads wait for each other."""

import os
from collections.abc import MutableMapping

DEFAULTS = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
USER = (*DEFAULTS, "KMP_BLOCKTIME", "KMP_LIBRARY")


def set_wait_policy(environ: MutableMapping[str, str] = os.environ) -> None:
    """Let threads spin for some microseconds at a barrier and then sleep, unless the user chose a policy.

    By default GNU's runtime, which torch's wheels use, spins for milliseconds. Where another process wants the same
    core, the spinning threads hold up the one that all of them wait for. The variables are read when torch is imported,
    so this comes first; child processes inherit them. LLVM's and Intel's runtimes read OMP_WAIT_POLICY alone.
    """
    if not any(name in environ for name in USER):
        environ.update(DEFAULTS)
