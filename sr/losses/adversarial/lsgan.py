"""The least squares GAN (Mao et al. 2017, equation 9 with its factor 1/2 left to the weight)."""

from torch import Tensor

from sr.losses.adversarial.base import Labelled


class LSGAN(Labelled):
    """D: (D(real) - real_label)^2 + (D(fake) - fake_label)^2. G: (D(fake) - real_label)^2. Means over logits."""

    def __init__(self, *, real_label: float = 1.0, fake_label: float = 0.0) -> None:
        self.real_label, self.fake_label = real_label, fake_label
        self.boundary = (real_label + fake_label) / 2

    def distance(self, logits: Tensor, label: float) -> Tensor:
        return (logits - label).square().mean()
