"""Feature matching: bring the discriminator's features of fake images close to those of real ones (pix2pixHD)."""

import torch
from torch import Tensor

from sr.losses.adversarial.base import CriticProtocol
from sr.losses.pixel import mean

LAYERS = 4


class FeatureMatching:
    """4 * mean over layers i of mean |D_i(real) - D_i(fake)| (Wang et al. 2018, pix2pixHD, equation 4).

    The paper sums over the 4 inner layers of its discriminator; here the weight does not depend on the depth. With
    several scales, all layers of all scales are averaged. Used for the generator only; real features have no gradient.
    Costs two more forward passes of the discriminator.
    """

    def generator(self, critic: CriticProtocol, *, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            _, wanted = critic.features(real)
        _, features = critic.features(fake)
        distances = [mean((a.float() - b.float()).abs()) for a, b in zip(features, wanted, strict=True)]
        return {"matching": LAYERS * torch.stack(distances).mean()}

    def discriminator(self, critic: CriticProtocol, *, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        return {}
