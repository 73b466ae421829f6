"""The logistic, non-saturating GAN loss as in StyleGAN (Goodfellow et al. 2014; Karras et al. 2019)."""

import torch.nn.functional as F
from torch import Tensor

from sr.losses.adversarial.base import CriticProtocol, over_maps


class Softplus:
    """D: softplus(-D(real)) + softplus(D(fake)). G: softplus(-D(fake)). Means over logits.

    The same function as `vanilla` with labels 1 and 0.
    """

    boundary = 0.0

    def generator(self, critic: CriticProtocol, *, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        return {"gan": over_maps(lambda x: F.softplus(-x).mean(), critic(fake))}

    def discriminator(self, critic: CriticProtocol, *, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        return {
            "real": over_maps(lambda x: F.softplus(-x).mean(), critic(real)),
            "fake": over_maps(lambda x: F.softplus(x).mean(), critic(fake)),
        }
