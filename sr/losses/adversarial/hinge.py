"""The hinge GAN loss (Lim and Ye 2017; Miyato et al. 2018, equations 16 and 17)."""

import torch.nn.functional as F
from torch import Tensor

from sr.losses.adversarial.base import CriticProtocol, over_maps


class Hinge:
    """D: max(0, 1 - D(real)) + max(0, 1 + D(fake)). G: -D(fake). Means over logits.

    Logits beyond the margin have no gradient for the discriminator, which keeps its logits bounded.
    """

    boundary = 0.0

    def generator(self, critic: CriticProtocol, *, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        return {"gan": over_maps(lambda x: -x.mean(), critic(fake))}

    def discriminator(self, critic: CriticProtocol, *, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        return {
            "real": over_maps(lambda x: F.relu(1 - x).mean(), critic(real)),
            "fake": over_maps(lambda x: F.relu(1 + x).mean(), critic(fake)),
        }
