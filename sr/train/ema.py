"""Exponential moving average of a net: what is validated, saved for use and upscaled with."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sr.distributed.backends.ddp import ReplicatedBackend, buffers, fill, fit


class EMA:
    """average <- d * average + (1 - d) * weights, buffers copied; one fused pass over what this rank holds of them.

    With warm_up, d rises to `decay` as (1 + step) / (10 + step): a young average would otherwise be mostly its random
    start. Without, it is `decay` from the first step on: for a network whose start is trained already.
    Where the weights are in parts so is the average: it costs memory for this rank's part alone and no exchange, and
    is put together when it is looked at.
    """

    def __init__(self, backend: ReplicatedBackend, *, decay: float, warm_up: bool = True) -> None:
        self.decay, self.warm_up, self.sharded = decay, warm_up, backend.sharded
        self._backend, self._net = backend, backend.pattern
        self.parts = {name: part.clone() for name, part in backend.owned().items()}
        if not self.sharded:
            fill(self._net, self.parts)

    @torch.no_grad()
    def update(self, *, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warm_up else self.decay
        torch._foreach_lerp_(list(self.parts.values()), list(self._backend.owned().values()), 1 - decay)
        for average, value in zip(self._net.buffers(), self._backend.raw.buffers(), strict=True):
            average.copy_(value)

    @contextmanager
    def unsharded(self) -> Iterator[nn.Module]:
        """The average as a net in eval mode, for as long as the block lasts. Collective."""
        if not self.sharded:
            yield self._net
            return
        fill(self._net, {name: self._backend.unshard(name, part) for name, part in self.parts.items()})
        try:
            yield self._net
        finally:
            fill(self._net, {name: value.to("meta") for name, value in self._net.named_parameters()})

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """What the average makes of `x`. Collective: where it is in parts, each call puts them together."""
        with self.unsharded() as net:
            output: Tensor = net(x)
        return output

    def state(self) -> dict[str, Tensor]:
        """The average's state dict; complete on rank 0. Collective."""
        held = buffers(self._net) if self.sharded else self._net.state_dict()
        return held | self._backend.gathered(self.parts)

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state`, given all of it on every rank. Raises ValueError naming what does not fit."""
        fit(self._net, state)
        for name, part in self.parts.items():
            part.copy_(self._backend.shard(name, state[name]))
        for name, buffer in buffers(self._net).items():
            buffer.copy_(state[name])
