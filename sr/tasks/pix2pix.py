"""pix2pix: image-to-image translation from pairs (Isola et al. 2017)."""

from collections.abc import Iterator

from sr.data.batch import Batch
from sr.tasks.task import AdversarialTask, Critic, Phase, frozen, joined, scaled


class Pix2Pix(AdversarialTask):
    """Discriminator first, its loss halved, then the generator on the same fake (section 3.3 of the paper).

    batch.lq is the image given, batch.gt the one wanted. The discriminator sees images in -1..1, as published;
    conditional: with the image given in the channels before.
    """

    def step(self, batch: Batch, step: int) -> Iterator[Phase]:
        real, condition = batch.gt, batch.lq if self.conditional else None
        output = self.generator(batch.lq)

        fake = output.detach()
        boundary = self.gan.boundary
        critic = Critic(self.discriminator, real=real, fake=fake, condition=condition, boundary=boundary, centred=True)
        losses = self.gan.discriminator(critic, real=real, fake=fake, step=step)
        yield Phase("discriminator", scaled(losses, 0.5), critic.report)

        with frozen(self.discriminator) as module:
            critic = Critic(module, real=real, fake=output, condition=condition, centred=True)
            adversarial = self.gan.generator(critic, real=real, fake=output, step=step)
        losses = joined(self.reconstruction(output, batch, step), adversarial)
        yield Phase("generator", losses, output=output, target=batch.target)
