"""pix2pix and CycleGAN as algorithms: the order of the phases, what each player learns from, and the pool of fakes."""

import pytest
import torch
from torch import Tensor, nn

from sr.data.batch import Batch
from sr.losses.adversarial.lsgan import LSGAN
from sr.losses.adversarial.vanilla import Vanilla
from sr.losses.pixel import L1
from sr.tasks.cyclegan import CycleGAN, Discriminators, Generators
from sr.tasks.pix2pix import Pix2Pix
from sr.tasks.pool import ImagePool
from sr.tasks.task import GANLoss, ReconstructionLosses


def constant(value: float):
    return lambda step: value


class Judge(nn.Module):
    """A convolution that notes what it is shown."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.seen = nn.Conv2d(channels, 1, 3), []

    def forward(self, images: Tensor) -> list[Tensor]:
        self.seen.append(images.detach())
        return [self.conv(images)]


def batch(channels: int = 3) -> Batch:
    a, b = torch.rand(2, channels, 8, 8), torch.rand(2, 3, 8, 8)
    return Batch(lq=a, gt=b, target=b)


def pix2pix(conditional: bool, reconstruction: dict | None = None) -> Pix2Pix:
    terms = {"l1": (constant(100.0), L1())} if reconstruction is None else reconstruction
    return Pix2Pix(
        generator=nn.Conv2d(1, 3, 3, padding=1),
        discriminator=Judge(4 if conditional else 3),
        reconstruction=ReconstructionLosses(terms),
        gan=GANLoss(Vanilla(), constant(1.0)),
        conditional=conditional,
    )


@pytest.mark.parametrize("conditional", [True, False])
def test_pix2pix_step(conditional: bool) -> None:
    torch.manual_seed(0)
    task, pair = pix2pix(conditional), batch(channels=1)
    phases = task.step(pair, 0)

    first = next(phases)
    assert first.player == "discriminator"
    sum(first.losses.values()).backward()
    assert task.generator.weight.grad is None
    assert task.discriminator.conv.weight.grad.abs().sum() > 0
    shown = dict(zip(("real", "fake"), task.discriminator.seen, strict=True))
    assert torch.allclose(shown["real"][:, -3:], 2 * pair.gt - 1)
    if conditional:
        assert torch.allclose(shown["fake"][:, :1], 2 * pair.lq - 1)
    logits = [task.discriminator.conv(shown[name]) for name in ("real", "fake")]
    expected = nn.functional.softplus(-logits[0]).mean() + nn.functional.softplus(logits[1]).mean()
    assert sum(first.losses.values()).item() == pytest.approx(0.5 * expected.item(), rel=1e-5)

    task.discriminator.zero_grad()
    second = next(phases)
    assert second.player == "generator"
    sum(second.losses.values()).backward()
    assert task.discriminator.conv.weight.grad is None
    assert task.generator.weight.grad.abs().sum() > 0
    assert second.losses["l1"].item() == pytest.approx(100 * (second.output - pair.gt).abs().mean().item(), rel=1e-5)
    assert next(phases, None) is None


def test_the_gan_term_reaches_the_generator_of_pix2pix() -> None:
    task = pix2pix(True, reconstruction={})
    phases = task.step(batch(channels=1), 0)
    next(phases)
    sum(next(phases).losses.values()).backward()
    assert task.generator.weight.grad.abs().sum() > 0


def cyclegan(identity: float = 0.5, pool: int = 4) -> CycleGAN:
    def net() -> nn.Module:
        return nn.Conv2d(3, 3, 3, padding=1)

    return CycleGAN(
        generator=Generators(a_to_b=net(), b_to_a=net()),
        discriminator=Discriminators(a=Judge(3), b=Judge(3)),
        reconstruction=ReconstructionLosses({"cycle": (constant(10.0), L1())}),
        gan=GANLoss(LSGAN(), constant(1.0)),
        identity=identity,
        pool=pool,
    )


def test_cyclegan_step() -> None:
    torch.manual_seed(0)
    task, pair = cyclegan(), batch()
    a, b = pair.lq, pair.gt
    phases = task.step(pair, 0)

    first = next(phases)
    assert first.player == "generator"
    to_b, to_a = task.generator.a_to_b, task.generator.b_to_a
    cycle = (to_a(to_b(a)) - a).abs().mean() + (to_b(to_a(b)) - b).abs().mean()
    identity = (to_a(a) - a).abs().mean() + (to_b(b) - b).abs().mean()
    judged = [task.discriminator.a.conv(2 * to_a(b) - 1), task.discriminator.b.conv(2 * to_b(a) - 1)]
    gan = sum((maps - 1).square().mean() for maps in judged)
    expected = {"cycle": 10 * cycle, "identity_cycle": 5 * identity, "gan": gan}
    assert first.losses.keys() == expected.keys()
    for name, value in expected.items():
        assert first.losses[name].item() == pytest.approx(value.item(), rel=1e-4), name
    sum(first.losses.values()).backward()
    assert all(p.grad is None for p in task.discriminator.parameters())
    assert all(p.grad.abs().sum() > 0 for p in task.generator.parameters())

    task.generator.zero_grad()
    second = next(phases)
    assert second.player == "discriminator"
    sum(second.losses.values()).backward()
    assert all(p.grad is None for p in task.generator.parameters())
    assert all(p.grad.abs().sum() > 0 for p in task.discriminator.parameters())
    judges = task.discriminator.a, task.discriminator.b
    real, fake = (a, b), (to_a(b).detach(), to_b(a).detach())
    value = sum((judge.conv(2 * x - 1) - 1).square().mean() for judge, x in zip(judges, real, strict=True))
    value += sum(judge.conv(2 * x - 1).square().mean() for judge, x in zip(judges, fake, strict=True))
    assert sum(second.losses.values()).item() == pytest.approx(0.5 * value.item(), rel=1e-4)
    assert {"logit_real", "logit_fake", "accuracy_real", "accuracy_fake"} <= second.report.keys()


def test_without_identity_no_identity_images_are_made() -> None:
    task = cyclegan(identity=0.0)
    first = next(task.step(batch(), 0))
    assert first.losses.keys() == {"cycle", "gan"}


def test_the_discriminators_see_old_fakes() -> None:
    torch.manual_seed(0)
    task = cyclegan(pool=1)
    for step in range(8):
        list(task.step(batch(), step))
    shown, newest = task.discriminator.b.seen, []
    for number in range(8):  # G's phase shows the newest fakes, D's phase real and pooled ones
        newest.append((shown[3 * number], shown[3 * number + 2]))
    assert any(not torch.equal(new, pooled) for new, pooled in newest)


class TestPool:
    def test_fills_first_and_then_swaps_half(self) -> None:
        torch.manual_seed(0)
        pool = ImagePool(10)
        fill = torch.arange(10.0).view(10, 1, 1, 1)
        assert torch.equal(pool.exchange(fill), fill)
        fresh = torch.arange(10.0, 410.0).view(400, 1, 1, 1)
        shown = pool.exchange(fresh)
        same = (shown == fresh).float().mean().item()
        assert 0.4 < same < 0.6
        assert (shown <= fresh).all()  # the others came earlier
        assert len({image.item() for image in pool.images}) == 10

    def test_size_0_shows_the_newest(self) -> None:
        fakes = torch.rand(3, 1, 2, 2)
        pool = ImagePool(0)
        assert torch.equal(pool.exchange(fakes), fakes)
        assert pool.state() is None

    def test_state_continues_bit_for_bit(self) -> None:
        def rest(pool: ImagePool) -> Tensor:
            torch.manual_seed(5)
            return pool.exchange(torch.arange(100.0, 120.0).view(20, 1, 1, 1))

        pool = ImagePool(6)
        pool.exchange(torch.rand(9, 1, 1, 1))
        other = ImagePool(6)
        other.load_state(pool.state())
        assert torch.equal(rest(other), rest(pool))

    def test_keeps_its_own_copy(self) -> None:
        pool, fakes = ImagePool(4), torch.zeros(2, 1, 2, 2)
        pool.exchange(fakes)
        fakes += 1
        assert all((image == 0).all() for image in pool.images)
