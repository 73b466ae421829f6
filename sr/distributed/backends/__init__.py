"""How a player is spread over the processes; the launch decides, the options file does not know."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from sr.core.errors import UserError
from sr.distributed import comm
from sr.distributed.backends.ddp import DDP, ReplicatedBackend
from sr.distributed.backends.launch_config import Launch, accelerator, read_launch
from sr.distributed.backends.sharded import check_player

__all__ = ["Launch", "Whole", "accelerator", "read_launch", "spread"]


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
    """Take over one player's net and optimizer as the launch asks. Collective.

    limit: of the gradient norm. accumulate: backward passes of a step. keep: the weights stay whole from forward to
    update, which a discriminator needs: it is called several times, and penalties take gradients of its gradients.
    ZeRO-3 has no way to keep them, so such a player goes by ZeRO-2.
    Raises UserError for what cannot be shared out, and where something else came of it than the launch asks for.
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
            from sr.distributed.backends.deepspeed import (  # takes DeepSpeed, which takes seconds to import
                Zero3,
                Zero12,
            )

            kind, stage = (Zero3, 3) if wanted == "ZeRO-3" else (Zero12, int(wanted[-1]))
            shared: dict[str, Any] = {"launch": launch, "device": accelerator.device}
            made = kind(net, optimizer, stage=stage, limit=limit, accumulate=accumulate, **shared)
    if made.way != wanted:
        raise UserError(
            f"the {name} was to train by {wanted} and would by {made.way}; install the versions of torch, accelerate "
            "and deepspeed that pyproject.toml names"
        )
    return made
