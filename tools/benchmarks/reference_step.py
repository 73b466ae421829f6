"""The reference of the benchmark `step`: the training step of BasicSR and Real-ESRGAN on a given batch."""

import argparse
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from sr.data.batch import Batch
from sr.nets.io.basicsr import basicsr

LAYERS = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0}


class Reference:
    """`RealESRGANModel.optimize_parameters` with its networks, losses, optimizers and EMA; sharpening is not timed.

    The class cannot be constructed without CUDA, so the method is called on an object with the attributes it uses.
    """

    def __init__(self, args: argparse.Namespace, *, rate: float, gan_weight: float) -> None:
        model = basicsr("models.realesrgan_model").RealESRGANModel
        build, losses = basicsr("archs.rrdbnet_arch").RRDBNet, basicsr("losses.basic_loss")
        self.model = SimpleNamespace(cri_ldl=None, net_d_iters=1, net_d_init_iters=0, ema_decay=0.999)
        self.model.opt = {"l1_gt_usm": True, "percep_gt_usm": True, "gan_gt_usm": False, "dist": False}
        self.model.net_g, self.model.net_g_ema = (
            build(3, 3, scale=args.scale, num_feat=args.feat, num_block=args.blocks) for _ in range(2)
        )
        self.model.net_g_ema.load_state_dict(self.model.net_g.state_dict())
        self.model.net_d = basicsr("archs.discriminator_arch").UNetDiscriminatorSN(3, num_feat=64)
        self.model.cri_pix = losses.L1Loss()
        self.model.cri_perceptual = _perceptual(losses.PerceptualLoss)
        self.model.cri_gan = basicsr("losses.gan_loss").GANLoss("vanilla", loss_weight=gan_weight)
        for name in ("get_bare_model", "model_ema", "reduce_loss_dict"):
            setattr(self.model, name, partial(getattr(model, name), self.model))
        self._step = partial(model.optimize_parameters, self.model)
        for part in vars(self.model).values():
            if isinstance(part, nn.Module):
                part.to(args.device)
        for name in ("g", "d"):
            parameters = getattr(self.model, f"net_{name}").parameters()
            setattr(self.model, f"optimizer_{name}", torch.optim.Adam(parameters, lr=rate, betas=(0.9, 0.99)))

    def give(self, batch: Batch) -> None:
        self.model.lq, self.model.gt, self.model.gt_usm = batch.lq, batch.gt, batch.target

    def step(self) -> None:
        self._step(1)

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"generator": self.model.optimizer_g, "discriminator": self.model.optimizer_d}

    def start(self) -> dict[str, dict[str, Tensor]]:
        """Return copies of the state dicts, whose keys equal ours."""
        nets = {"generator": self.model.net_g, "discriminator": self.model.net_d}
        return {name: {key: value.clone() for key, value in net.state_dict().items()} for name, net in nets.items()}


def _perceptual(kind: Any) -> nn.Module:
    """Return BasicSR's perceptual loss on the VGG19 with random weights of our `weights: random`."""
    from sr.losses.backbones import open_backbone

    architectures = basicsr("archs.vgg_arch")
    plain, architectures.vgg = architectures.vgg, SimpleNamespace(vgg19=_untrained)
    try:
        loss: nn.Module = kind(LAYERS)
    finally:
        architectures.vgg = plain
    ours = open_backbone("vgg19", LAYERS, weights="random")
    for mine, theirs in zip(ours.parameters(), loss.parameters(), strict=True):
        theirs.data.copy_(mine)
    return loss


def _untrained(pretrained: bool) -> SimpleNamespace:
    """Return VGG19 without the unused classifier; the weights are set later."""
    from torchvision.models import vgg19

    with torch.device("meta"):
        features = vgg19(weights=None).features
    return SimpleNamespace(features=features.to_empty(device="cpu"))
