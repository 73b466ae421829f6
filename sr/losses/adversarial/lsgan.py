"""The least squares GAN (Mao et al. 2017, equation 9 with its factor 1/2 left to the weight)."""

from torch import Tensor

from sr.losses.adversarial.base import Critic, over_maps


class LSGAN:
    """D: (D(real) - real_label)^2 + (D(fake) - fake_label)^2. G: (D(fake) - real_label)^2. Means over logits."""

    def __init__(self, *, real_label: float = 1.0, fake_label: float = 0.0) -> None:
        self.real_label, self.fake_label = real_label, fake_label

    def generator(self, critic: Critic, *, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        return {"gan": _distance(critic(fake), self.real_label)}

    def discriminator(self, critic: Critic, *, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        return {"real": _distance(critic(real), self.real_label), "fake": _distance(critic(fake), self.fake_label)}


def _distance(maps: list[Tensor], label: float) -> Tensor:
    return over_maps(lambda x: (x - label).square().mean(), maps)
