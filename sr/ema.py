"""Exponential moving average of a net: what is validated, saved for use and upscaled with."""

import copy

import torch
from torch import Tensor, nn


class EMA:
    """average <- d * average + (1 - d) * weights, buffers copied; one fused pass over all weights.

    d rises to `decay` as (1 + step) / (10 + step): a young average would otherwise be mostly its random start.
    """

    def __init__(self, net: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.net = copy.deepcopy(net).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, net: nn.Module, *, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.net.parameters()), list(net.parameters()), 1 - decay)
        for average, value in zip(self.net.buffers(), net.buffers(), strict=True):
            average.copy_(value)

    def state(self) -> dict[str, Tensor]:
        return self.net.state_dict()

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.net.load_state_dict(state)
