"""Every discriminator with every GAN loss and everything added to it, plain and conditional: one step of SRGAN."""

import functools
import itertools

import pytest
import torch
from torch import nn

from sr.config import registry
from sr.data.batch import Batch
from sr.losses import ADVERSARIAL, GAN_TERMS
from sr.losses.pixel import L1
from sr.nets import DISCRIMINATORS
from sr.tasks import TASKS
from sr.tasks.task import GANLoss, ReconstructionLosses
from sr.train.builder import TABLES
from tests.helpers.tiers import slow

NETS = {
    "unet_sn": {"num_feat": 4},
    "patchgan": {"num_feat": 4},
    "vgg": {"num_feat": 4},
    "resnet": {},
    "timm": {"name": "test_efficientnet"},
    "multiscale": {"num_scales": 2, "of": {"type": "patchgan", "num_feat": 4, "num_layers": 1}},
}
VARIANTS = {  # what differs inside a type, with every loss but without additions
    **{
        f"patchgan {norm}": {"type": "patchgan", "num_feat": 4, "norm": norm}
        for norm in ("instance", "spectral", "none")
    },
    "pixel": {"type": "patchgan", "num_feat": 4, "num_layers": 0},
    "attention": {"type": "timm", "name": "test_vit"},
}
BASES = {f"relativistic {base}": {"type": "relativistic", "base": base} for base in ("lsgan", "hinge")}
EVERY = list(GAN_TERMS)
PAIRS = [(net, loss, EVERY) for net, loss in itertools.product(DISCRIMINATORS, ADVERSARIAL) if net != "resnet"]
PAIRS += [("resnet", "hinge", EVERY), ("resnet", "relativistic", [])]  # `timm` of a size that takes seconds
PAIRS += [("patchgan", loss, [term]) for loss in ADVERSARIAL for term in EVERY]
PAIRS += [(net, loss, []) for net in VARIANTS for loss in ADVERSARIAL]
PAIRS += [(net, base, []) for net in ("unet_sn", "multiscale") for base in BASES]
PAIRS += [("attention", "hinge", ["r1", "gradient_penalty"])]


def one(step: int) -> float:
    return 1.0


def make(table: str, part: dict[str, object], **supplied: int):
    """A part as an options file gives it: checked, then built."""
    assert registry.check(part, table, TABLES) == []
    return registry.make(part, table, TABLES, **supplied)


@functools.cache
def discriminator_of(net: str, channels: int) -> nn.Module:
    part = VARIANTS.get(net) or {"type": net, **NETS[net]}
    return make("discriminators", part, num_in_ch=channels)


CASES = [(*pair, False) for pair in PAIRS]
CASES += [(*pair, True) for pair in PAIRS if pair[2] == EVERY or (pair[0] in VARIANTS and pair[1] == "hinge")]


def stands_for_others(net: str, loss: str, terms: list[str], conditional: bool) -> bool:
    """Whether the fast tier runs the case: two networks with every loss, and the others with one of them."""
    return loss == "lsgan" or (not conditional and terms == EVERY and net in ("unet_sn", "patchgan", "resnet"))


@pytest.mark.parametrize(
    ("net", "loss", "regularizers", "conditional"),
    [case if stands_for_others(*case) else slow([case])[0] for case in CASES],
    ids=[f"{n}-{g}-{'+'.join(p)}-{'conditional' if c else 'plain'}" for n, g, p, c in CASES],
)
def test_one_step(net, loss, regularizers, conditional):
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))
    discriminator = discriminator_of(net, 6 if conditional else 3)
    discriminator.zero_grad()
    extras = [(one, make("gan_terms", {"type": term})) for term in regularizers]
    gan_loss = GANLoss(make("gan", BASES.get(loss, {"type": loss})), one, extras)
    reconstruction = ReconstructionLosses({"pixel": (one, L1())})
    task = TASKS["sr_gan"](
        generator=generator,
        discriminator=discriminator,
        reconstruction=reconstruction,
        gan=gan_loss,
        conditional=conditional,
    )
    lq, gt = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 32, 32)
    for phase in task.step(Batch(lq=lq, gt=gt, target=gt), step=0):
        assert all(value.dtype == torch.float32 and value.isfinite() for value in phase.losses.values())
        sum(value for name, value in phase.losses.items() if name != "pixel").backward()
        if phase.player == "generator":
            assert all(p.grad is None for p in discriminator.parameters())
            assert all(p.grad.isfinite().all() and p.grad.any() for p in generator.parameters())
            before = [p.grad.clone() for p in generator.parameters()]
    assert all(torch.equal(p.grad, was) for p, was in zip(generator.parameters(), before, strict=True))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in discriminator.parameters())
    assert next(discriminator.parameters()).grad.any()  # the first layer, so all between it and the logits
