"""What GAN losses share: they are given the critic and images, not logits."""

from collections.abc import Callable

import torch
from torch import Tensor

Critic = Callable[[Tensor], list[Tensor]]
"""Images [B, 3, h, w] in 0..1 -> one or more logit maps [B, 1, h', w']."""


def over_maps(loss: Callable[[Tensor], Tensor], maps: list[Tensor]) -> Tensor:
    """The mean of `loss` over logit maps in float32; a map weighs the same whatever its size."""
    return torch.stack([loss(logits.float()) for logits in maps]).mean()
