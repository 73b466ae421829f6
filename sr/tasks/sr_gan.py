"""SRGAN, ESRGAN, Real-ESRGAN: the same step; only their nets, losses and data differ."""

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from sr.data.batch import Batch
from sr.tasks.task import AdversarialTask, Critic, Phase, frozen, joined


class SRGAN(AdversarialTask):
    """Generator first, then discriminator on the same fake, as the published trainers do.

    Fidelity compares with `target` (sharpened in Real-ESRGAN), the discriminator sees the plain `gt` as real.
    conditional: the discriminator also sees lq, upscaled by bicubic, in the channels before the image.
    """

    def step(self, batch: Batch, step: int) -> Iterator[Phase]:
        condition, real = self._condition(batch), batch.gt
        fake = self.generator(batch.lq)
        with frozen(self.discriminator) as module:
            critic = Critic(module, real=real, fake=fake, condition=condition)
            adversarial = self.gan.generator(critic, real=real, fake=fake, step=step)
        losses = joined(self.reconstruction(fake, batch, step), adversarial)
        yield Phase("generator", losses, output=fake, target=batch.target)

        fake = fake.detach()
        critic = Critic(self.discriminator, real=real, fake=fake, condition=condition, boundary=self.gan.boundary)
        losses = self.gan.discriminator(critic, real=real, fake=fake, step=step)
        yield Phase("discriminator", losses, critic.report)

    def _condition(self, batch: Batch) -> Tensor | None:
        if not self.conditional:
            return None
        return F.interpolate(batch.lq, size=batch.gt.shape[-2:], mode="bicubic", align_corners=False).clamp(0, 1)
