"""The Wasserstein GAN, without penalty (Arjovsky et al. 2017) and with the gradient penalty (Gulrajani et al. 2017)."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from sr.losses.adversarial.base import CriticProtocol, over_maps
from sr.losses.adversarial.penalties import GradientPenalty


class WGAN:
    """D: D(fake) - D(real). G: -D(fake). Means over logits.

    The loss has no lower bound: use spectral norm in the discriminator, or add a penalty (`wgan_gp` or `regularizers`).
    """

    def generator(self, critic: CriticProtocol, *, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        return {"gan": over_maps(lambda x: -x.mean(), critic(fake))}

    def discriminator(self, critic: CriticProtocol, *, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        return {
            "real": over_maps(lambda x: -x.mean(), critic(real)),
            "fake": over_maps(lambda x: x.mean(), critic(fake)),
        }


class WGANGP(WGAN):
    """`wgan` plus `penalty` (lambda in the paper) times `gradient_penalty`, under the name gp."""

    def __init__(self, *, penalty: Annotated[float, Field(gt=0)] = 10.0) -> None:
        self.penalty, self.extra = penalty, GradientPenalty()

    def discriminator(self, critic: CriticProtocol, *, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        terms = super().discriminator(critic, real=real, fake=fake)
        gp = self.extra.discriminator(critic, real=real, fake=fake)["gp"]
        return {**terms, "gp": self.penalty * gp}
