"""What GAN losses share: they are given the critic and images, not logits."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class Critic(Protocol):
    """Images [B, 3, h, w] in 0..1 -> one or more logit maps [B, 1, h', w']."""

    def __call__(self, images: Tensor) -> list[Tensor]: ...

    def features(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The logit maps, and the features of the layers before them."""
        ...


def over_maps(loss: Callable[[Tensor], Tensor], maps: list[Tensor]) -> Tensor:
    """The mean of `loss` over logit maps in float32; a map weighs the same whatever its size."""
    return torch.stack([loss(logits.float()) for logits in maps]).mean()
