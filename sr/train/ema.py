"""Exponential moving average (EMA) of a network: it is validated, exported and used for upscaling."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sr.distributed.backends.ddp import ReplicatedBackend, buffers, fill, fit


class EMA:
    """average <- d * average + (1 - d) * weights; buffers are copied. One fused pass over this rank's shard.

    With warm_up, d rises to `decay` as (1 + step) / (10 + step): an early average would otherwise consist mostly of its
    random start. Without, d is `decay` from the first step on, for a network with pretrained weights.
    Where the weights are sharded, the average is too: it costs memory for this rank's shard only and no communication,
    and is unsharded for use.
    """

    def __init__(self, backend: ReplicatedBackend, *, decay: float, warm_up: bool = True) -> None:
        self.decay, self.warm_up, self.sharded = decay, warm_up, backend.sharded
        self._backend, self._net = backend, backend.pattern
        self.parts = {name: part.clone() for name, part in backend.owned().items()}
        if not self.sharded:
            fill(self._net, self.parts)

    @torch.no_grad()
    def update(self, *, step: int) -> None:
        """Move the average towards the weights after update `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warm_up else self.decay
        torch._foreach_lerp_(list(self.parts.values()), list(self._backend.owned().values()), 1 - decay)
        for average, value in zip(self._net.buffers(), self._backend.raw.buffers(), strict=True):
            average.copy_(value)

    @torch.no_grad()
    def switch(self) -> None:
        """Set the weights to the average (Switch EMA, arXiv:2402.09240); optimizer state stays. No communication."""
        torch._foreach_copy_(list(self._backend.owned().values()), list(self.parts.values()))

    @contextmanager
    def unsharded(self) -> Iterator[nn.Module]:
        """Provide the average as a network in eval mode inside the block. Collective."""
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
        """Return the output of the averaged network. Collective: where it is sharded, each call gathers it."""
        with self.unsharded() as net:
            output: Tensor = net(x)
        return output

    def state(self) -> dict[str, Tensor]:
        """Return the average's state dict; complete on rank 0. Collective."""
        held = buffers(self._net) if self.sharded else self._net.state_dict()
        return held | self._backend.gathered(self.parts)

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Load a complete `state`, given on every rank. Raises ValueError naming what does not match."""
        fit(self._net, state)
        for name, part in self.parts.items():
            part.copy_(self._backend.shard(name, state[name]))
        for name, buffer in buffers(self._net).items():
            buffer.copy_(state[name])
