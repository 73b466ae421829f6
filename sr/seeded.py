"""Random draws that a name decides: a net that draws noise makes the same of the same picture every time."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(name: str) -> Iterator[None]:
    """Inside, torch's generators start from `name`; behind, they are as they were before."""
    seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1
    # Forking all devices would open a context, hundreds of megabytes, on those of the other ranks too.
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
