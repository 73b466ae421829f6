"""The relativistic average GAN (Jolicoeur-Martineau 2018), as ESRGAN uses it (Wang et al. 2018, equations 1 and 2)."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sr.distributed.comm import mean_over_ranks
from sr.losses.adversarial.base import CriticProtocol, over_maps

BASES: dict[str, Callable[[Tensor], Tensor]] = {
    "vanilla": lambda x: F.softplus(-x).mean(),
    "lsgan": lambda x: (x - 1).square().mean(),
    "hinge": lambda x: F.relu(1 - x).mean(),
}
"""Distance of logits from "real". From "fake" it is that of -x, so the labels of lsgan are 1 and -1."""


class Relativistic:
    """Compare each real image with the average fake, and each fake with the average real image.

    r = D(real) - mean D(fake), f = D(fake) - mean D(real), the means over all logits of a map on all ranks, with
    gradient. D: base(r) / 2 + base(-f) / 2. G: base(-r) / 2 + base(f) / 2, which depends on real images too.
    """

    def __init__(self, *, base: Literal["vanilla", "lsgan", "hinge"] = "vanilla") -> None:
        self.base = BASES[base]

    def generator(self, critic: CriticProtocol, *, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        terms = self._distances(critic, real=fake, fake=real)
        return {"gan": terms["real"] + terms["fake"]}

    def discriminator(self, critic: CriticProtocol, *, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        return self._distances(critic, real=real, fake=fake)

    def _distances(self, critic: CriticProtocol, *, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        reals, fakes = critic(real), critic(fake)
        means = mean_over_ranks(torch.stack([x.float().mean() for x in (*reals, *fakes)]))
        mean_real, mean_fake = means.chunk(2)
        over_fake = [x.float() - mean for x, mean in zip(reals, mean_fake, strict=True)]
        over_real = [x.float() - mean for x, mean in zip(fakes, mean_real, strict=True)]
        return {
            "real": over_maps(self.base, over_fake) / 2,
            "fake": over_maps(lambda x: self.base(-x), over_real) / 2,
        }
