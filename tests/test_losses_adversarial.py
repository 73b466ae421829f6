"""GAN losses: values, and where gradients go."""

from importlib.util import find_spec

import pytest
import torch
from torch import nn

from sr.losses import ADVERSARIAL
from sr.losses.adversarial.vanilla import Vanilla
from sr.nets.basicsr import basicsr

needs_basicsr = pytest.mark.skipif(find_spec("basicsr") is None, reason="basicsr, the reference, is an extra")


class TwoMaps(nn.Module):
    """A critic that judges at two resolutions."""

    def __init__(self):
        super().__init__()
        self.fine = nn.Conv2d(3, 1, 3)
        self.coarse = nn.Conv2d(3, 1, 3, stride=2)

    def forward(self, x):
        return [self.fine(x), self.coarse(x)]


@pytest.fixture
def images():
    torch.manual_seed(0)
    return {"real": torch.rand(2, 3, 12, 12), "fake": torch.rand(2, 3, 12, 12, requires_grad=True)}


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_gradient_reaches_the_generator_and_not_the_frozen_critic(name, images):
    critic = TwoMaps().requires_grad_(False)
    losses = ADVERSARIAL[name]().generator(critic, **images)
    sum(losses.values()).backward()
    assert images["fake"].grad.abs().sum() > 0
    assert all(p.grad is None for p in critic.parameters())


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_every_part_of_the_critic_learns(name, images):
    critic = TwoMaps()
    images["fake"] = images["fake"].detach()
    losses = ADVERSARIAL[name]().discriminator(critic, **images)
    assert all(loss.dtype == torch.float32 and loss.ndim == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad.abs().sum() > 0 for p in critic.parameters())


@needs_basicsr
def test_vanilla_equals_basicsr(images):
    reference = basicsr("losses.gan_loss").GANLoss("vanilla", real_label_val=0.9, fake_label_val=0.1)
    critic, loss = TwoMaps(), Vanilla(real_label=0.9, fake_label=0.1)
    ours = loss.generator(critic, **images) | loss.discriminator(critic, **images)
    shown = {"gan": ("fake", True), "real": ("real", True), "fake": ("fake", False)}
    for name, (which, is_real) in shown.items():
        wanted = torch.stack([reference(logits, is_real, is_disc=True) for logits in critic(images[which])]).mean()
        assert torch.allclose(ours[name], wanted), name


def test_vanilla_falls_as_the_critic_is_fooled(images):
    def sure(verdict):
        return Vanilla().generator(lambda x: [torch.full((1, 1, 4, 4), verdict)], **images)["gan"]

    assert sure(5.0) < sure(0.0) < sure(-5.0)
    assert torch.allclose(sure(0.0), torch.tensor(2.0).log())
