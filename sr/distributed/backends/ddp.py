"""Replicated backends: every process holds the whole module (one process, or DDP over several)."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

State = Mapping[str, Tensor]


class ReplicatedBackend:
    """One module and its optimizer on one process; the other backends override what differs.

    raw: the network itself. module: what the task calls. pattern: the network without parameter memory (see `fill`).
    sharded: each rank holds a shard of every parameter. Methods marked collective communicate in sharded backends;
    whole tensors are then returned on rank 0 only, in host memory.
    """

    sharded = False

    def __init__(self, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.raw, self.optimizer = net, optimizer
        self.module = net
        self.pattern = _hollow(net)
        self.parameters: dict[str, Any] = dict(net.named_parameters())  # sharding adds attributes to them
        self.shapes = {name: parameter.shape for name, parameter in self.parameters.items()}
        self._given = [dict(group) for group in optimizer.param_groups]

    @property
    def way(self) -> str:
        """The backend that is in effect, for messages and checks."""
        return "one process"

    # ---- a step ------------------------------------------------------------------------------------------------------

    def no_sync(self, last: bool) -> AbstractContextManager[None]:
        """Skip the gradient exchange inside an accumulation window; must enclose the forward pass too."""
        return nullcontext()

    def backward(self, loss: Tensor, *, last: bool) -> None:
        loss.backward()

    def step(self, scaler: torch.amp.GradScaler, *, limit: float | None, measure: bool) -> Tensor | None:
        """Clip to norm `limit`, step, free the gradients. Returns the norm over all ranks if it clips or measures."""
        norm = None
        if limit is not None or measure:
            scaler.unscale_(self.optimizer)
            norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), limit or float("inf"))
        scaler.step(self.optimizer)
        scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    # ---- shards ------------------------------------------------------------------------------------------------------

    def owned(self) -> dict[str, Tensor]:
        """Return this rank's shard of every parameter by name, sharing memory with training."""
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    def unshard(self, name: str, part: Tensor) -> Tensor:
        """Gather a tensor of the shape of parameter `name` from the shards of all ranks, on the device. Collective."""
        return part

    def shard(self, name: str, whole: Tensor) -> Tensor:
        """Return this rank's shard of a whole tensor: the inverse of `unshard`. Not collective."""
        return whole

    def gathered(self, parts: State) -> dict[str, Tensor]:
        """Unshard many tensors, by name. Collective."""
        return dict(parts)

    # ---- weights and optimizer state ---------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Return weights and optimizer state by parameter name: `model/<name>`, `<state>/<name>`. Collective."""
        state = {f"model/{name}": value for name, value in self.weights().items()} | self.optimizer_state()
        return state | {f"group/{number}.{key}": value for number, key, value in self._group_state()}

    def _group_state(self) -> Iterator[tuple[int, str, Tensor]]:
        """Yield what the optimizer changed in its groups, such as the step count of timm's Adan or Prodigy's `d`."""
        if isinstance(self.optimizer, torch.optim.Adam | torch.optim.AdamW | torch.optim.SGD):
            return  # they keep nothing there, and sharding replaces their groups
        for number, (group, given) in enumerate(zip(self.optimizer.param_groups, self._given, strict=True)):
            changed = {key: value for key, value in group.items() if key not in ("params", "lr")}
            for key, value in flatten(changed):
                if key.split(":")[0] not in given or _differs(given[key.split(":")[0]], group[key.split(":")[0]]):
                    yield number, key, value

    def weights(self) -> dict[str, Tensor]:
        """Return parameters and buffers as a state dict. Collective."""
        return self.raw.state_dict()

    def optimizer_state(self) -> dict[str, Tensor]:
        """Return the optimizer state: `<state>/<name>`, of the parameter's shape or a scalar. Collective."""
        return {
            f"{moment}/{name}": value
            for name, parameter in self.parameters.items()
            for moment, value in flatten(self.optimizer.state.get(parameter, {}), self.shapes[name])
        }

    def load(self, state: State) -> None:
        """Load a complete `state`, given on every rank, from any backend and number of processes.

        Raises ValueError naming what does not match, before anything is changed.
        """
        weights = {key.removeprefix("model/"): value for key, value in state.items() if key.startswith("model/")}
        optimizer_state = {key: value for key, value in state.items() if not key.startswith(("model/", "group/"))}
        self.check(weights, optimizer_state)
        self.load_weights(weights)
        self.load_optimizer_state(optimizer_state)
        groups: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            if key.startswith("group/"):
                number, _, entry = key.removeprefix("group/").partition(".")
                groups.setdefault(int(number), {})[entry] = value.to(next(iter(self.parameters.values())).device)
        for index, group in enumerate(self.optimizer.param_groups):
            group.update(unflatten(groups.get(index, {})))

    def check(self, weights: State, optimizer_state: State) -> None:
        """Raise ValueError where the state does not match the module."""
        fit(self.pattern, weights)
        for key, value in optimizer_state.items():
            name = key.partition("/")[2]
            if name not in self.shapes:
                raise ValueError(f"'{key}' belongs to no parameter")
            if value.dim() and ":" not in key and value.shape != self.shapes[name]:
                raise ValueError(f"'{key}' is {list(value.shape)}, not {list(self.shapes[name])}")

    @torch.no_grad()
    def load_weights(self, weights: State) -> None:
        for name, part in self.owned().items():
            part.copy_(self.shard(name, weights[name]))
        for name, buffer in buffers(self.raw).items():
            buffer.copy_(weights[name])

    def load_optimizer_state(self, optimizer_state: State) -> None:
        found: dict[str, dict[str, Tensor]] = {}
        for key, value in optimizer_state.items():
            moment, _, name = key.partition("/")
            own = self.parameters[name]
            same = value.dim() and ":" not in moment
            found.setdefault(name, {})[moment] = self.like(name, value) if same else value.to(own.device, copy=True)
        for name, moments in found.items():
            self.optimizer.state[self.parameters[name]].update(unflatten(moments))

    def like(self, name: str, value: Tensor) -> Tensor:
        """Return optimizer state in the memory layout of its parameter, which the fused optimizer needs."""
        return torch.empty_like(self.parameters[name], dtype=value.dtype, requires_grad=False).copy_(value)


class DDP(ReplicatedBackend):
    """DistributedDataParallel: the whole module on every process; gradients are averaged during backward."""

    def __init__(
        self, net: nn.Module, optimizer: torch.optim.Optimizer, *, prepare: Callable[[nn.Module], Any]
    ) -> None:
        super().__init__(net, optimizer)
        self.module = self.wrapper = prepare(net)
        self._settle(net)

    def _settle(self, net: nn.Module) -> None:
        """Make DDP fix its bucket order now, by a backward pass of zeros. Collective.

        DDP would do so after the first backward pass. Summing floats of three processes in another order gives another
        sum, so the first step after a start would differ from the same step of an uninterrupted run.
        """
        if not isinstance(self.wrapper, DistributedDataParallel):
            return
        self.wrapper.module = _Zero(net)
        self.wrapper(0.0).backward()
        self.wrapper.module = net
        self.optimizer.zero_grad(set_to_none=True)

    @property
    def way(self) -> str:
        return "DDP" if isinstance(self.wrapper, DistributedDataParallel) else "no gradient exchange"

    def no_sync(self, last: bool) -> AbstractContextManager[None]:
        return nullcontext() if last else self.wrapper.no_sync()


class _Zero(nn.Module):
    """Multiplies one value of every parameter by `factor`. Gradients arrive in reverse order, as they mostly do in use.

    The argument is there because DDP on a GPU needs one.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, factor: float) -> Tensor:
        return torch.stack([factor * parameter.flatten()[0] for parameter in self.net.parameters()]).sum()


_NUMBERS: dict[str, type] = {"int": int, "float": float, "bool": bool}


def flatten(state: Mapping[str, Any], shape: torch.Size | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yield the state of an optimizer as tensors: `name`, `name:int` for a number, `name:0:1` inside lists.

    shape: of the parameter; a tensor of another shape is `name:any`. An empty list is a tensor without values.
    """
    for name, value in state.items():
        if isinstance(value, Tensor):
            other = shape is not None and value.dim() and value.shape != shape
            yield f"{name}:any" if other else name, value
        elif isinstance(value, bool | int | float):
            dtype = torch.float64 if isinstance(value, float) else torch.int64
            yield f"{name}:{type(value).__name__}", torch.tensor(value, dtype=dtype)
        elif isinstance(value, list | tuple) and not value:
            yield f"{name}:empty", torch.empty(0)
        elif isinstance(value, list | tuple):
            yield from flatten({f"{name}:{number}": inner for number, inner in enumerate(value)})


def unflatten(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what `flatten` took apart; tuples become lists."""
    made: dict[str, Any] = {}
    for key, value in state.items():
        name, *steps = key.split(":")
        kind = steps.pop() if steps and not steps[-1].isdigit() else ""
        content: Any = [] if kind == "empty" else _NUMBERS[kind](value.item()) if kind in _NUMBERS else value
        if not steps:
            made[name] = content
            continue
        holder = made.setdefault(name, [])
        for step in map(int, steps[:-1]):
            holder.extend([] for _ in range(step + 1 - len(holder)))
            holder = holder[step]
        holder.extend([] for _ in range(int(steps[-1]) + 1 - len(holder)))
        holder[int(steps[-1])] = content
    return made


def _differs(one: Any, other: Any) -> bool:
    return bool(torch.as_tensor(one).ne(torch.as_tensor(other)).any()) if isinstance(one, Tensor) else one != other


def buffers(net: nn.Module) -> dict[str, Tensor]:
    """Return the persistent buffers of `net`."""
    kept = net.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in net.named_buffers() if name in kept}


def fit(net: nn.Module, weights: State) -> None:
    """Raise ValueError, naming the first mismatch, where `weights` are not a state dict of `net`."""
    own = {name: value.shape for name, value in net.state_dict().items()}
    for name in [*own, *weights]:
        if name not in weights or name not in own:
            raise ValueError(f"'{name}' is {'missing' if name in own else 'unknown'}")
        if own[name] != weights[name].shape:
            raise ValueError(f"'{name}' is {list(weights[name].shape)}, not {list(own[name])}")


def fill(net: nn.Module, values: State) -> None:
    """Replace the parameters of `net` by the tensors of `values`, by name, without a copy."""
    new = {id(old): nn.Parameter(values[name], requires_grad=False) for name, old in net.named_parameters()}
    for module in net.modules():
        for name, old in module._parameters.items():
            if old is not None:
                module._parameters[name] = new[id(old)]


def empty(net: nn.Module) -> None:
    """Free the memory of the parameters of `net`; names and shapes stay."""
    fill(net, {name: torch.empty_like(value, device="meta") for name, value in net.named_parameters()})


def _hollow(net: nn.Module) -> nn.Module:
    copied = copy.deepcopy(net).requires_grad_(False).eval()
    empty(copied)
    return copied
