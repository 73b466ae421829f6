"""The device that inference runs on."""

import os

import torch

from sr.core.errors import UserError


def pick_device(name: str | None = None) -> torch.device:
    """The device called `name`, or the best one here: CUDA (one per process of a launch), XPU, MPS, CPU.

    Raises UserError for a device that does not exist, and for more processes than GPUs.
    """
    if name is None:
        return _best()
    try:
        device = torch.device(name)
        torch.ones(1, device=device).cpu()  # the device meta holds no values
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"--device {name}: this machine has no such device; leave it out or give cpu") from None
    return device


def _best() -> torch.device:
    if torch.cuda.is_available():
        rank, gpus = os.environ.get("LOCAL_RANK"), torch.cuda.device_count()
        if rank is not None and int(rank) >= gpus:
            raise UserError(f"process {rank} of this machine has no GPU, it has {gpus}; set --num_processes {gpus}")
        return torch.device("cuda") if rank is None else torch.device("cuda", int(rank))
    for kind in ("xpu", "mps"):
        module = getattr(torch, kind, None)
        if module is not None and module.is_available():
            return torch.device(kind)
    return torch.device("cpu")
