"""CycleGAN: translation between two sets of images of which none are pairs (Zhu et al. 2017)."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sr.data.batch import Batch
from sr.tasks.pool import ImagePool
from sr.tasks.task import Critic, GANLoss, Phase, ReconstructionLosses, Task, Terms, frozen, joined, scaled

SIDES = "a", "b"


class Generators(nn.Module):
    """The generators of both directions as one module: one optimizer, one exchange of gradients.

    One forward computes all that a step needs, so that wrappers of the module see one forward per step.
    """

    def __init__(self, *, a_to_b: nn.Module, b_to_a: nn.Module) -> None:
        super().__init__()
        self.a_to_b, self.b_to_a = a_to_b, b_to_a

    def forward(self, a: Tensor, b: Tensor, identity: bool) -> dict[str, Tensor]:
        """a, b: [B, C, h, w] -> fake_a, fake_b, rec_a, rec_b, and where wanted idt_a, idt_b; all like a or b."""
        images = {"fake_b": self.a_to_b(a), "fake_a": self.b_to_a(b)}
        images |= {"rec_a": self.b_to_a(images["fake_b"]), "rec_b": self.a_to_b(images["fake_a"])}
        return images | ({"idt_a": self.b_to_a(a), "idt_b": self.a_to_b(b)} if identity else {})


class Discriminators(nn.Module):
    """The discriminators of both sets as one module; `side` selects one."""

    def __init__(self, *, a: nn.Module, b: nn.Module) -> None:
        super().__init__()
        self.a, self.b = a, b

    def forward(self, images: Tensor, side: str) -> list[Tensor]:
        maps: list[Tensor] = self.get_submodule(side)(images)
        return maps


class CycleGAN(Task):
    """Generators first, then both discriminators on fakes out of a pool, their losses halved.

    batch.lq comes from set a, batch.gt from set b. The reconstruction terms compare each image with its way there and
    back (equation 2), and, times `identity`, with what the generator into its own set makes of it (section 5.2). A
    perceptual term therefore acts on these two; the one on the way there that some tutorials have needs a paired
    target, which does not exist here. pool: earlier fakes kept for each discriminator, over all ranks.
    """

    players = "generator", "discriminator"

    def __init__(
        self,
        *,
        generator: nn.Module,
        discriminator: nn.Module,
        reconstruction: ReconstructionLosses,
        gan: GANLoss,
        identity: float = 0.5,
        pool: int = 50,
    ) -> None:
        self.generator, self.discriminator = generator, discriminator
        self.reconstruction, self.gan, self.identity = reconstruction, gan, identity
        self.pools = {side: ImagePool(pool) for side in SIDES}

    def report(self) -> dict[str, float]:
        return self.reconstruction.report()

    def state(self) -> dict[str, Tensor]:
        return {f"pool_{side}": images for side, pool in self.pools.items() if (images := pool.state()) is not None}

    def load_state(self, state: dict[str, Tensor]) -> None:
        for side, pool in self.pools.items():
            pool.load_state(state.get(f"pool_{side}"))

    def step(self, batch: Batch, step: int) -> Iterator[Phase]:
        reals = {"a": batch.lq, "b": batch.gt}
        images = self.generator(batch.lq, batch.gt, self.identity > 0)

        losses = self._faithful(images, reals, step)
        with frozen(self.discriminator) as module:
            for side, real in reals.items():
                fake = images[f"fake_{side}"]
                critic = Critic(module, real=real, fake=fake, side=side, centred=True)
                losses = joined(losses, self.gan.generator(critic, real=real, fake=fake, step=step))
        yield Phase("generator", losses)

        losses, reports = {}, []
        for side, real in reals.items():
            fake = self.pools[side].exchange(images[f"fake_{side}"].detach())
            boundary = self.gan.boundary
            critic = Critic(self.discriminator, real=real, fake=fake, side=side, boundary=boundary, centred=True)
            losses = joined(losses, self.gan.discriminator(critic, real=real, fake=fake, step=step))
            reports.append(critic.report)
        report = {name: torch.stack([both[name] for both in reports]).mean() for name in reports[0]}
        yield Phase("discriminator", scaled(losses, 0.5), report)

    def _faithful(self, images: dict[str, Tensor], reals: dict[str, Tensor], step: int) -> Terms:
        """Every reconstruction term on both reconstructions, and as `identity_<term>` on both identity images."""
        losses: Terms = {}
        for side, real in reals.items():
            pair = Batch(lq=real, gt=real, target=real)
            losses = joined(losses, self.reconstruction(images[f"rec_{side}"], pair, step))
            if self.identity:
                terms = scaled(self.reconstruction(images[f"idt_{side}"], pair, step), self.identity)
                losses = joined(losses, {f"identity_{name}": value for name, value in terms.items()})
        return losses
