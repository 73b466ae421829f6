"""GAN losses: values, and where gradients go."""

from importlib.util import find_spec

import pytest
import torch
from torch import nn

from sr.losses import ADVERSARIAL, GAN_TERMS
from sr.losses.adversarial.hinge import Hinge
from sr.losses.adversarial.lsgan import LSGAN
from sr.losses.adversarial.matching import FeatureMatching
from sr.losses.adversarial.penalties import R1, R2, GradientPenalty
from sr.losses.adversarial.relativistic import Relativistic
from sr.losses.adversarial.softplus import Softplus
from sr.losses.adversarial.vanilla import Vanilla
from sr.losses.adversarial.wgan import WGAN, WGANGP
from sr.nets.io.basicsr import basicsr
from sr.nets.patchgan import PatchGAN
from sr.tasks.task import Critic, GANLoss

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
    assert all(layer.weight.grad.abs().sum() > 0 for layer in (critic.fine, critic.coarse))


@needs_basicsr
@pytest.mark.parametrize(
    ("loss", "kind", "labels"),
    [
        (Vanilla(real_label=0.9, fake_label=0.1), "vanilla", (0.9, 0.1)),
        (LSGAN(real_label=0.9, fake_label=0.1), "lsgan", (0.9, 0.1)),
        (Hinge(), "hinge", (1.0, 0.0)),
        (Softplus(), "wgan_softplus", (1.0, 0.0)),
        (WGAN(), "wgan", (1.0, 0.0)),
    ],
)
def test_equals_basicsr(loss, kind, labels, images):
    reference = basicsr("losses.gan_loss").GANLoss(kind, *labels)
    critic = TwoMaps()
    ours = loss.generator(critic, **images) | loss.discriminator(critic, **images)
    shown = {"gan": ("fake", True, False), "real": ("real", True, True), "fake": ("fake", False, True)}
    for name, (which, is_real, is_disc) in shown.items():
        maps = critic(images[which])
        wanted = torch.stack([reference(logits, is_real, is_disc=is_disc) for logits in maps]).mean()
        assert torch.allclose(ours[name], wanted), name


def test_vanilla_falls_as_the_critic_is_fooled(images):
    def sure(verdict):
        return Vanilla().generator(lambda x: [torch.full((1, 1, 4, 4), verdict)], **images)["gan"]

    assert sure(5.0) < sure(0.0) < sure(-5.0)
    assert torch.allclose(sure(0.0), torch.tensor(2.0).log())


@needs_basicsr
def test_relativistic_equals_basicsr(images):
    """basicsr's ESRGAN model, which holds the means of the discriminator's phase back from the gradient."""
    reference = basicsr("losses.gan_loss").GANLoss("vanilla")
    critic = nn.Conv2d(3, 1, 3)
    real, fake = critic(images["real"]), critic(images["fake"])
    generator = (reference(real.detach() - fake.mean(), False) + reference(fake - real.detach().mean(), True)) / 2
    loss = Relativistic()
    (got,) = loss.generator(lambda x: [critic(x)], **images).values()
    assert torch.allclose(got, generator)
    gradients = [torch.autograd.grad(value, images["fake"], retain_graph=True)[0] for value in (got, generator)]
    assert torch.allclose(*gradients)
    ours = loss.discriminator(lambda x: [critic(x)], **images)
    assert torch.allclose(ours["real"], reference(real - fake.mean(), True, is_disc=True) / 2)
    assert torch.allclose(ours["fake"], reference(fake - real.mean(), False, is_disc=True) / 2)


@pytest.mark.parametrize("base", ["vanilla", "lsgan", "hinge"])
def test_relativistic_is_about_differences(base, images):
    shifts = iter([0.0, 0.0, 3.0, 3.0])

    def shifted(x):
        return [x.mean(1, keepdim=True) + next(shifts)]

    loss = Relativistic(base=base)
    still, moved = (loss.discriminator(shifted, **images) for _ in range(2))
    assert all(torch.allclose(still[name], moved[name]) for name in still)
    surer = loss.discriminator(lambda x: [torch.full((2,), float(x is images["real"]))], **images)
    assert sum(surer.values()) < sum(still.values())


def test_relativistic_hinge_and_lsgan_by_hand(images):
    values = {id(images["real"]): torch.tensor([1.0, 3.0]), id(images["fake"]): torch.tensor([0.0, 2.0])}
    terms = {b: Relativistic(base=b).discriminator(lambda x: [values[id(x)]], **images) for b in ("hinge", "lsgan")}
    # r = (0, 2), f = (-2, 0): hinge max(0, 1 - r) = (1, 0), max(0, 1 + f) = (0, 1); lsgan (1, 1), (1, 1)
    assert [float(v) for v in terms["hinge"].values()] == [0.25, 0.25]
    assert [float(v) for v in terms["lsgan"].values()] == [0.5, 0.5]


@needs_basicsr
def test_r1_equals_basicsr(images):
    reference = basicsr("losses.gan_loss").r1_penalty
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 3))
    real = images["real"].requires_grad_()
    logits = net(real)
    wanted = reference(logits, real) / 2 / logits[0].numel()
    assert torch.allclose(R1().discriminator(lambda x: [net(x)], **images)["r1"], wanted)
    assert torch.equal(
        R2().discriminator(lambda x: [net(x)], real=images["fake"], fake=real)["r2"],
        R1().discriminator(lambda x: [net(x)], **images)["r1"],
    )


@pytest.mark.parametrize("size", [12, 24])
def test_the_slope_of_a_map_is_that_of_its_patches(size):
    """Patches that do not overlap: the penalty is the mean over patches, whatever their number."""
    patch = nn.Conv2d(3, 1, 4, stride=4)
    images = {"real": torch.rand(2, 3, size, size), "fake": torch.rand(2, 3, size, size)}
    squared = patch.weight.square().sum()
    assert torch.allclose(R1().discriminator(lambda x: [patch(x)], **images)["r1"], squared / 2)
    gp = GradientPenalty().discriminator(lambda x: [patch(x)], **images)["gp"]
    assert torch.allclose(gp, (squared.sqrt() - 1).square(), atol=1e-6)


def test_wgan_gp_is_wgan_and_the_penalty(images):
    critic = TwoMaps()
    torch.manual_seed(1)
    whole = WGANGP(penalty=5.0).discriminator(critic, **images)
    torch.manual_seed(1)
    wanted = WGAN().discriminator(critic, **images) | {
        "gp": 5 * GradientPenalty().discriminator(critic, **images)["gp"]
    }
    assert all(torch.equal(whole[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("name", ["r1", "r2", "gradient_penalty"])
def test_penalties_teach_the_critic_alone_and_in_float32(name, images):
    critic, term = PatchGAN(num_feat=4, num_layers=1, norm="none"), GAN_TERMS[name]()
    assert term.generator(critic, **images) == {}
    torch.manual_seed(2)  # gradient_penalty draws its places
    with torch.autocast("cpu", torch.bfloat16):
        (value,) = term.discriminator(critic, **images).values()
    torch.manual_seed(2)
    (plain,) = term.discriminator(critic, **images).values()
    assert value.dtype == torch.float32
    assert torch.equal(value, plain)
    value.backward()
    assert critic.model[0].weight.grad.abs().sum() > 0
    assert images["fake"].grad is None


@pytest.mark.parametrize("every", [1, 4])
def test_lazy_penalties_keep_their_mean_weight(every, images):
    critic, gan_loss = TwoMaps(), GANLoss(Hinge(), lambda step: 1.0, [(lambda step: 10.0, R1(every=every))])
    terms = [gan_loss.discriminator(critic, **images, step=step) for step in range(4)]
    wanted = R1().discriminator(critic, **images)["r1"]
    assert ["r1" in found for found in terms] == [step % every == 0 for step in range(4)]
    assert torch.allclose(sum(found.get("r1", torch.tensor(0.0)) for found in terms), 4 * 10 * wanted)


def test_feature_matching_by_the_equation(images):
    net = PatchGAN(num_feat=4, num_layers=1, norm="instance").requires_grad_(False)
    net(images["real"])
    activations = {name: [] for name in ("real", "fake")}
    for name, image in images.items():
        x = image
        for layer in net.model:
            x = layer(x)
            if isinstance(layer, nn.LeakyReLU):
                activations[name].append(x.clone())
    wanted = 4 * torch.stack([(a - b).abs().mean() for a, b in zip(*activations.values(), strict=True)]).mean()
    got = FeatureMatching().generator(Critic(net, **images), **images)["matching"]
    assert torch.allclose(got, wanted)
    got.backward()
    assert images["fake"].grad.abs().sum() > 0
    assert not any(m._forward_pre_hooks for m in net.model if isinstance(m, nn.Conv2d))


def test_features_leave_out_what_first_layers_read(images):
    condition = torch.rand(2, 3, 12, 12)
    critic = Critic(PatchGAN(num_in_ch=6, num_feat=4, num_layers=0), **images, condition=condition)
    maps, features = critic.features(images["fake"])
    assert [f.shape[1] for f in features] == [4, 8]
    assert maps[0].shape == (2, 1, 12, 12)
