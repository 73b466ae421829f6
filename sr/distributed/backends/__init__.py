"""Distributed backends of a player; the launch command chooses one, not the options file."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from sr.core.errors import UserError
from sr.distributed import comm
from sr.distributed.backends.ddp import DDP, ReplicatedBackend
from sr.distributed.backends.launch_config import Launch, accelerator, read_launch
from sr.distributed.backends.sharded import check_player

__all__ = ["Launch", "ReplicatedBackend", "accelerator", "read_launch", "wrap"]


def wrap(
    name: str,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    launch: Launch,
    accelerator: Accelerator,
    precision: str,
    limit: float | None,
    accumulate: int,
    keep: bool,
) -> ReplicatedBackend:
    """Wrap one player's network and optimizer in the backend of the launch. Collective.

    limit: maximum gradient norm. accumulate: backward passes per step. keep: weights stay unsharded from forward to
    update. A discriminator needs this: it is called several times, and penalties take gradients of its gradients.
    ZeRO-3 cannot keep them, so such a player uses ZeRO-2.
    Raises UserError for players that cannot be sharded, and where the result is not the backend that was requested.
    """
    if launch.backend == "ddp":
        wanted = "DDP" if comm.world() > 1 else "one process"
        made = (
            DDP(net, optimizer, prepare=accelerator.prepare_model)
            if comm.world() > 1
            else ReplicatedBackend(net, optimizer)
        )
    else:
        check_player(name, net, optimizer, precision=precision, way=str(launch))
        wanted = "ZeRO-2" if keep and launch.backend == "zero3" else str(launch)
        if launch.backend == "fsdp2":
            from sr.distributed.backends.fsdp import FSDP2

            made = FSDP2(net, optimizer, launch=launch, device=accelerator.device, keep=keep)
        else:
            from sr.distributed.backends.deepspeed import (  # importing DeepSpeed takes seconds
                Zero3,
                Zero12,
            )

            kind, stage = (Zero3, 3) if wanted == "ZeRO-3" else (Zero12, int(wanted[-1]))
            shared: dict[str, Any] = {"launch": launch, "device": accelerator.device}
            made = kind(net, optimizer, stage=stage, limit=limit, accumulate=accumulate, **shared)
    if made.way != wanted:
        raise UserError(
            f"the {name} should train by {wanted}, not {made.way}; install the versions of torch, accelerate "
            "and deepspeed that pyproject.toml names"
        )
    return made
