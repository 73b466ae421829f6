"""The GAN loss of Goodfellow et al. 2014, with the non-saturating generator (section 3)."""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from sr.losses.adversarial.base import Critic, over_maps

Label = Annotated[float, Field(ge=0, le=1)]


class Vanilla:
    """Binary cross entropy on logits: D tells real (`real_label`) from fake (`fake_label`), G aims at `real_label`.

    Labels short of 1 and 0 smooth the targets.
    """

    def __init__(self, *, real_label: Label = 1.0, fake_label: Label = 0.0) -> None:
        self.real_label, self.fake_label = real_label, fake_label

    def generator(self, critic: Critic, *, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        return {"gan": _distance(critic(fake), self.real_label)}

    def discriminator(self, critic: Critic, *, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        return {"real": _distance(critic(real), self.real_label), "fake": _distance(critic(fake), self.fake_label)}


def _distance(maps: list[Tensor], label: float) -> Tensor:
    return over_maps(lambda x: F.binary_cross_entropy_with_logits(x, torch.full_like(x, label)), maps)
