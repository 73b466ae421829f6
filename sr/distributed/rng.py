"""Random generators seeded by a name or a position in the run, independent of history."""

import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch

from sr.distributed import comm


@contextmanager
def fork_rng(name: str) -> Iterator[None]:
    """Seed torch's generators by `name` inside the block and restore them after it.

    A network that draws noise then returns the same output for the same image every time.
    """
    seed = int.from_bytes(hashlib.blake2b(os.fsencode(name), digest_size=8).digest(), "big") >> 1
    # Forking all devices would create a context of hundreds of megabytes on the GPUs of other ranks too.
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        _seed(seed)
        yield


def reseed(seed: int, step: int, micro: int) -> None:
    """Seed the global generators by the position, so that no checkpoint holds their state (dropout, user code)."""
    value = int(np.random.SeedSequence([seed, step, micro, comm.rank()]).generate_state(1, np.uint64)[0] >> 1)
    _seed(value)
    random.seed(value)
    np.random.seed(value % 2**32)


def _seed(value: int) -> None:
    """Seed torch's generators: `torch.manual_seed` where there is an accelerator, whose generators it seeds as well.

    Without one, torch.manual_seed formats three stack traces in case that one appears, which costs milliseconds.
    """
    if _accelerated():
        torch.manual_seed(value)
    else:
        torch.default_generator.manual_seed(value)


@cache
def _accelerated() -> bool:
    return torch.cuda.is_available() or torch.backends.mps.is_available()
