"""Shared code of the backends that shard a player over the ranks."""

import torch
import torch.distributed as td
from torch import Tensor, nn

from sr.core.errors import UserError
from sr.distributed import comm
from sr.distributed.backends.ddp import ReplicatedBackend, State, buffers

ELEMENTWISE = torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD
"""Elementwise optimizers: any shard of a parameter can be updated by itself."""


class Sharded(ReplicatedBackend):
    """Every rank holds a shard of every parameter."""

    sharded = True

    def gathered(self, parts: State) -> dict[str, Tensor]:
        kept = {}
        for name, part in parts.items():  # one at a time, so that the device never holds all of them
            whole = self.unshard(name, part)
            if comm.is_main():
                kept[name] = whole.to("cpu", copy=True)
        return kept

    def weights(self) -> dict[str, Tensor]:
        return buffers(self.raw) | self.gathered(self.owned())


def check_player(name: str, net: nn.Module, optimizer: torch.optim.Optimizer, *, precision: str, way: str) -> None:
    """Raise UserError for a player that cannot be sharded."""
    if not isinstance(optimizer, ELEMENTWISE):
        raise UserError(
            f"optimizer.{name}: {type(optimizer).__name__} may need whole tensors, which {way} shards over the "
            "ranks; use adam or adamw, or launch with --multi_gpu"
        )
    if precision == "fp16":
        raise UserError(
            f"train.precision: fp16 needs a loss scaler that is shared by the ranks, which {way} has not; use bf16 or "
            "fp32, or launch with --multi_gpu"
        )
    if way.startswith("ZeRO") and not all(parameter.requires_grad for parameter in net.parameters()):
        raise UserError(
            f"the {name} has parameters that are not trained (by freeze.{name}, or unused in its architecture), which "
            f"{way} does not support; launch with --multi_gpu or FSDP2"
        )
    if len(list(net.parameters())) < len(list(net.named_parameters(remove_duplicate=False))):
        raise UserError(f"the {name} uses a weight in two places, which {way} cannot shard; launch with --multi_gpu")


def straighten(net: nn.Module) -> None:
    """Make parameters contiguous, to be sharded by rows. With channels_last inputs, convolutions convert weights."""
    for parameter in net.parameters():
        parameter.data = parameter.data.contiguous()


@torch.no_grad()
def align(net: nn.Module) -> None:
    """Broadcast rank 0's buffers, as DDP does: running statistics see each rank's samples only. Collective."""
    tensors = list(buffers(net).values())
    for dtype in sorted({tensor.dtype for tensor in tensors}, key=str) if comm.world() > 1 else ():
        same = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.flatten() for tensor in same])
        td.broadcast(flat, 0)
        for tensor, value in zip(same, flat.split([tensor.numel() for tensor in same]), strict=True):
            tensor.copy_(value.view_as(tensor))
