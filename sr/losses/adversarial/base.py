"""Base of GAN losses, which receive the critic and images, not logits."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class CriticProtocol(Protocol):
    """Images [B, 3, h, w] in 0..1 -> one or more logit maps [B, 1, h', w']."""

    def __call__(self, images: Tensor) -> list[Tensor]: ...

    def features(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The logit maps, and the features of the layers before them."""
        ...


def over_maps(loss: Callable[[Tensor], Tensor], maps: list[Tensor]) -> Tensor:
    """The mean of `loss` over logit maps in float32; every map has the same weight, independent of its size."""
    return torch.stack([loss(logits.float()) for logits in maps]).mean()


class Labelled(ABC):
    """Losses with a target label for each logit. D: `real_label` for reals and `fake_label` for fakes; G: `real_label`
    for fakes."""

    real_label: float
    fake_label: float
    boundary = 0.0  # logits above count as real

    @abstractmethod
    def distance(self, logits: Tensor, label: float) -> Tensor:
        """The mean distance of float32 logits from a label."""

    def generator(self, critic: CriticProtocol, *, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        return {"gan": self._over(critic(fake), self.real_label)}

    def discriminator(self, critic: CriticProtocol, *, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        return {"real": self._over(critic(real), self.real_label), "fake": self._over(critic(fake), self.fake_label)}

    def _over(self, maps: list[Tensor], label: float) -> Tensor:
        return over_maps(lambda logits: self.distance(logits, label), maps)
