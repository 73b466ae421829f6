"""SRGAN, ESRGAN, Real-ESRGAN: the same step; only their nets, losses and data differ."""

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor, nn

from sr.batch import Pair
from sr.tasks.task import Observed, Phase, Task, Terms, Weighted, frozen


class Adversarial(Protocol):
    """A GAN loss receives the critic, not logits, so penalties and relativistic losses need no case of their own."""

    def generator(self, critic: Observed, *, real: Tensor, fake: Tensor) -> Terms: ...

    def discriminator(self, critic: Observed, *, real: Tensor, fake: Tensor) -> Terms: ...


class SRGAN(Task):
    """Generator first, then discriminator on the same fake, as the published trainers do.

    Fidelity compares with `target` (sharpened in Real-ESRGAN), the discriminator sees the plain `gt` as real.
    """

    players = ("generator", "discriminator")

    def __init__(
        self, *, generator: nn.Module, discriminator: nn.Module, fidelity: Weighted, gan: Adversarial, gan_weight: float
    ) -> None:
        self.generator, self.discriminator = generator, discriminator
        self.fidelity, self.gan, self.gan_weight = fidelity, gan, gan_weight

    def step(self, batch: Pair) -> Iterator[Phase]:
        fake = self.generator(batch.lq)
        with frozen(self.discriminator) as module:
            critic = Observed(module, real=batch.gt, fake=fake)
            adversarial = self.gan.generator(critic, real=batch.gt, fake=fake)
        adversarial = {name: self.gan_weight * loss for name, loss in adversarial.items()}
        yield Phase("generator", self.fidelity(fake, batch.target) | adversarial)

        fake = fake.detach()
        critic = Observed(self.discriminator, real=batch.gt, fake=fake)
        losses = self.gan.discriminator(critic, real=batch.gt, fake=fake)
        yield Phase("discriminator", losses, critic.report)
