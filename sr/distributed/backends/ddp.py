"""The plain backends: every process holds the whole module (one process, or DDP over several)."""

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

State = Mapping[str, Tensor]


class ReplicatedBackend:
    """One module and its optimizer on one process; the other backends change what differs.

    raw: the net itself. module: what the task calls. pattern: the net without memory for its parameters (see `fill`).
    sharded: each rank holds a part of every parameter. What is collective below is so where parts have to meet; the
    whole tensors then come on rank 0 alone and in host memory.
    """

    sharded = False

    def __init__(self, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.raw, self.optimizer = net, optimizer
        self.module = net
        self.pattern = _hollow(net)
        self.parameters: dict[str, Any] = dict(net.named_parameters())  # sharding hangs much on them
        self.shapes = {name: parameter.shape for name, parameter in self.parameters.items()}

    @property
    def way(self) -> str:
        """How the module really is spread."""
        return "one process"

    # ---- a step ------------------------------------------------------------------------------------------------------

    def no_sync(self, last: bool) -> AbstractContextManager[None]:
        """No gradient exchange inside an accumulation window; must enclose the forward too."""
        return nullcontext()

    def backward(self, loss: Tensor, *, last: bool) -> None:
        loss.backward()

    def step(self, scaler: torch.amp.GradScaler, *, limit: float | None, measure: bool) -> Tensor | None:
        """Clip at norm `limit`, step, drop the gradients. If it clips or measures, returns the norm over all ranks."""
        norm = None
        if limit is not None or measure:
            scaler.unscale_(self.optimizer)
            norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), limit or float("inf"))
        scaler.step(self.optimizer)
        scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    # ---- parts and wholes --------------------------------------------------------------------------------------------

    def owned(self) -> dict[str, Tensor]:
        """This rank's part of every parameter, by name; the memory that training uses."""
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    def unshard(self, name: str, part: Tensor) -> Tensor:
        """A tensor of the shape of parameter `name` from every rank's part of it, on the device. Collective."""
        return part

    def shard(self, name: str, whole: Tensor) -> Tensor:
        """This rank's part of a whole tensor: the inverse of `unshard`, and not collective."""
        return whole

    def gathered(self, parts: State) -> dict[str, Tensor]:
        """`unshard` of many, by name. Collective."""
        return dict(parts)

    # ---- weights and moments -----------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Weights and moments by the names of the parameters: `model/<name>`, `<moment>/<name>`. Collective."""
        return {f"model/{name}": value for name, value in self.weights().items()} | self.optimizer_state()

    def weights(self) -> dict[str, Tensor]:
        """Parameters and buffers, as a state dict. Collective."""
        return self.raw.state_dict()

    def optimizer_state(self) -> dict[str, Tensor]:
        """What the optimizer remembers: `<moment>/<name>`, of the parameter's shape or a scalar. Collective."""
        return {
            f"{moment}/{name}": torch.as_tensor(value)
            for name, parameter in self.parameters.items()
            for moment, value in self.optimizer.state.get(parameter, {}).items()
            if value is not None
        }

    def load(self, state: State) -> None:
        """Inverse of `state`, whichever backend and number of processes it is from; every rank is given all of it.

        Raises ValueError naming what does not fit, before anything is changed.
        """
        weights = {key.removeprefix("model/"): value for key, value in state.items() if key.startswith("model/")}
        optimizer_state = {key: value for key, value in state.items() if not key.startswith("model/")}
        self.check(weights, optimizer_state)
        self.load_weights(weights)
        self.load_optimizer_state(optimizer_state)

    def check(self, weights: State, optimizer_state: State) -> None:
        fit(self.pattern, weights)
        for key, value in optimizer_state.items():
            name = key.partition("/")[2]
            if name not in self.shapes:
                raise ValueError(f"'{key}' is of no parameter")
            if value.dim() and value.shape != self.shapes[name]:
                raise ValueError(f"'{key}' is {list(value.shape)}, not {list(self.shapes[name])}")

    @torch.no_grad()
    def load_weights(self, weights: State) -> None:
        for name, part in self.owned().items():
            part.copy_(self.shard(name, weights[name]))
        for name, buffer in buffers(self.raw).items():
            buffer.copy_(weights[name])

    def load_optimizer_state(self, optimizer_state: State) -> None:
        for key, value in optimizer_state.items():
            moment, _, name = key.partition("/")
            parameter = self.parameters[name]
            whole = self.like(name, value) if value.dim() else value.to(parameter.device)
            self.optimizer.state[parameter][moment] = whole

    def like(self, name: str, value: Tensor) -> Tensor:
        """A moment laid out in memory like its parameter (the fused optimizer needs both alike)."""
        return torch.empty_like(self.parameters[name], dtype=value.dtype, requires_grad=False).copy_(value)


class DDP(ReplicatedBackend):
    """The whole module on every process; gradients are averaged while the backward pass runs."""

    def __init__(
        self, net: nn.Module, optimizer: torch.optim.Optimizer, *, prepare: Callable[[nn.Module], Any]
    ) -> None:
        super().__init__(net, optimizer)
        self.module = self.wrapper = prepare(net)
        self._settle(net)

    def _settle(self, net: nn.Module) -> None:
        """Let DDP choose now in which order it adds gradients up, by a backward pass of zeros. Collective.

        It would do so after the first one, and floats of three processes added in another order are another sum: the
        first step after every start would differ from the same step of a run that went on.
        """
        if not isinstance(self.wrapper, DistributedDataParallel):
            return
        self.wrapper.module = _Zero(net)
        self.wrapper(0.0).backward()
        self.wrapper.module = net
        self.optimizer.zero_grad(set_to_none=True)

    @property
    def way(self) -> str:
        return "DDP" if isinstance(self.wrapper, DistributedDataParallel) else "no exchange at all"

    def no_sync(self, last: bool) -> AbstractContextManager[None]:
        return nullcontext() if last else self.wrapper.no_sync()


class _Zero(nn.Module):
    """Takes a value of every parameter `factor` times. Their gradients come in reverse order, as they mostly do in use.

    On a GPU, DDP needs an argument to pass on.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, factor: float) -> Tensor:
        return torch.stack([factor * parameter.flatten()[0] for parameter in self.net.parameters()]).sum()


def buffers(net: nn.Module) -> dict[str, Tensor]:
    """The buffers that a state dict holds."""
    kept = net.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in net.named_buffers() if name in kept}


def fit(net: nn.Module, weights: State) -> None:
    """Raises ValueError, naming the first that does not fit, where `weights` are not a state dict of `net`."""
    own = {name: value.shape for name, value in net.state_dict().items()}
    for name in [*own, *weights]:
        if name not in weights or name not in own:
            raise ValueError(f"'{name}' is {'missing' if name in own else 'unknown'}")
        if own[name] != weights[name].shape:
            raise ValueError(f"'{name}' is {list(weights[name].shape)}, not {list(own[name])}")


def fill(net: nn.Module, values: State) -> None:
    """Give `net` the tensors of `values` for its parameters, by name; they are not copied."""
    new = {id(old): nn.Parameter(values[name], requires_grad=False) for name, old in net.named_parameters()}
    for module in net.modules():
        for name, old in module._parameters.items():
            if old is not None:
                module._parameters[name] = new[id(old)]


def empty(net: nn.Module) -> None:
    """Leave the parameters of `net` names and shapes, and take their memory."""
    fill(net, {name: torch.empty_like(value, device="meta") for name, value in net.named_parameters()})


def _hollow(net: nn.Module) -> nn.Module:
    copied = copy.deepcopy(net).requires_grad_(False).eval()
    empty(copied)
    return copied
