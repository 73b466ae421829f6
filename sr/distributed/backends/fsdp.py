"""FSDP2 (torch's fully_shard): weights, gradients and optimizer state are sharded and gathered when they are used."""

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
import torch.distributed as td
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from sr.distributed import comm
from sr.distributed.backends.ddp import State
from sr.distributed.backends.launch_config import Launch
from sr.distributed.backends.sharded import Sharded, align, straighten


class FSDP2(Sharded):
    """Parameters are DTensors sharded along their first dimension; a forward pass gathers them and frees them again.

    keep: free them after the update only. This is for networks that are called several times per step, and because a
    gradient of a gradient uses the weights after the hooks that gather them have run.
    """

    def __init__(
        self, net: nn.Module, optimizer: torch.optim.Optimizer, *, launch: Launch, device: torch.device, keep: bool
    ) -> None:
        super().__init__(net, optimizer)
        warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* view tensor")  # never written to
        straighten(net)
        for parameter in net.parameters():
            td.broadcast(parameter.detach(), 0)
        align(net)
        names = {id(parameter): name for name, parameter in net.named_parameters()}
        mesh = init_device_mesh(device.type, (comm.world(),))
        for module in [*chosen(net, launch), net]:
            fully_shard(module, mesh=mesh, reshard_after_forward=launch.reshard and not keep)
        self.root, self.keep = cast(FSDPModule, net), keep
        if keep:
            self.root.set_reshard_after_backward(False)
        self.parameters = dict(net.named_parameters())
        for group in optimizer.param_groups:
            group["params"] = [self.parameters[names[id(parameter)]] for parameter in group["params"]]

    @property
    def way(self) -> str:
        cut = all(isinstance(parameter, DTensor) for parameter in self.parameters.values())
        return "FSDP2" if cut else "no sharded parameters"

    def no_sync(self, last: bool) -> AbstractContextManager[None]:
        self.root.set_requires_gradient_sync(last)
        return nullcontext()

    def backward(self, loss: Tensor, *, last: bool) -> None:
        loss.backward()
        if self.keep:
            late = [name for name, parameter in self.raw.named_parameters() if last and parameter.grad is not None]
            if late:  # it would be silently left out
                raise RuntimeError(f"the gradient of {late[0]} came after FSDP2 had exchanged those of its module")
            self.reshard_all()

    def reshard_all(self) -> None:
        """Free gathered weights; the next forward pass gathers them again."""
        for module in self.raw.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def step(self, scaler: torch.amp.GradScaler, *, limit: float | None, measure: bool) -> Tensor | None:
        norm = super().step(scaler, limit=limit, measure=measure)
        align(self.raw)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    @torch.no_grad()
    def owned(self) -> dict[str, Tensor]:
        return {name: parameter.to_local().detach() for name, parameter in self.parameters.items()}

    def unshard(self, name: str, part: Tensor) -> Tensor:
        like = self.parameters[name]
        wrap = DTensor.from_local(
            part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )
        return wrap.full_tensor()

    def shard(self, name: str, whole: Tensor) -> Tensor:
        chunks = whole.chunk(comm.world())
        return chunks[comm.rank()] if comm.rank() < len(chunks) else whole[:0]

    def optimizer_state(self) -> dict[str, Tensor]:
        kept = {}
        for key, value in super().optimizer_state().items():
            whole = value.full_tensor() if isinstance(value, DTensor) else value
            if comm.is_main():
                kept[key] = whole.to("cpu", copy=True)
        return kept

    def load_weights(self, weights: State) -> None:
        self.reshard_all()
        super().load_weights(weights)

    def like(self, name: str, value: Tensor) -> Tensor:
        moment: Any = torch.empty_like(self.parameters[name], dtype=value.dtype, requires_grad=False)
        moment.to_local().copy_(self.shard(name, value))
        return moment


def chosen(net: nn.Module, launch: Launch) -> list[nn.Module]:
    """Return the modules inside `net` that are gathered one at a time, inner ones first."""
    found: list[nn.Module] = []

    def visit(module: nn.Module) -> int:
        """Collect the modules that the launch names; returns the number of values outside collected modules."""
        left = sum(p.numel() for p in module.parameters(recurse=False)) + sum(map(visit, module.children()))
        big = launch.wrap_size is not None and left >= launch.wrap_size
        if module is net or not (big or type(module).__name__ in launch.wrap):
            return left
        found.append(module)
        return 0

    visit(net)
    return found
