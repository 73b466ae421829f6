"""Random draws that a name or a place in the run decides, and no history."""

import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from sr.distributed import comm


@contextmanager
def fork_rng(name: str) -> Iterator[None]:
    """Inside, torch's generators start from `name`; behind, they are as they were before.

    So a net that draws noise makes the same of the same image every time.
    """
    seed = int.from_bytes(hashlib.blake2b(os.fsencode(name), digest_size=8).digest(), "big") >> 1
    # Forking all devices would open a context, hundreds of megabytes, on those of the other ranks too.
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def reseed(seed: int, step: int, micro: int) -> None:
    """Global generators as a function of the position, so no checkpoint carries their state (dropout, users' code)."""
    value = int(np.random.SeedSequence([seed, step, micro, comm.rank()]).generate_state(1, np.uint64)[0] >> 1)
    torch.manual_seed(value)
    random.seed(value)
    np.random.seed(value % 2**32)
