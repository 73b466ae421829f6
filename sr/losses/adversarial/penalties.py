"""Gradient penalties for the discriminator, usable with any GAN loss.

The discriminators of the papers return one logit per image. For a map of N logits, the gradient of their sum is
divided by sqrt(N): for logits of disjoint patches, the squared norm is then the mean over the patches, so that the
weight does not depend on the size of the map. (A penalty on the sum itself is N times as large.)

The gradient is per image only without batch norm in the discriminator. Each penalty costs one more forward and two
backward passes of the discriminator, in float32 outside autocast, because half precision loses second-order gradients.
"""

import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sr.losses.adversarial.base import CriticProtocol


class _Lazy:
    """`every` = N: applied every Nth step with N times its weight (Karras et al. 2020, section 3.1)."""

    def __init__(self, *, every: PositiveInt = 16) -> None:
        self.every = every

    def generator(self, critic: CriticProtocol, *, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        return {}


class R1(_Lazy):
    """1/2 ||grad D(real)||^2 (Mescheder et al. 2018, equation 9); the weight is their gamma.

    Applied every Nth step (`every` = N) with N times its weight.
    """

    def discriminator(self, critic: CriticProtocol, *, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        return {"r1": _squared_slopes(critic, real).mean() / 2}


class R2(_Lazy):
    """1/2 ||grad D(fake)||^2 (Mescheder et al. 2018, equation 10); the weight is their gamma.

    Applied every Nth step (`every` = N) with N times its weight.
    """

    def discriminator(self, critic: CriticProtocol, *, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        return {"r2": _squared_slopes(critic, fake).mean() / 2}


class GradientPenalty:
    """(||grad D(x)|| - 1)^2, x random between a real and a fake image (Gulrajani et al. 2017, equation 3).

    x is drawn for each step and rank, so it depends on the number of processes.
    """

    def generator(self, critic: CriticProtocol, *, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        return {}

    def discriminator(self, critic: CriticProtocol, *, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        between = torch.lerp(fake.float(), real.float(), torch.rand(len(real), 1, 1, 1, device=real.device))
        slopes = (_squared_slopes(critic, between) + 1e-12).sqrt()  # the gradient of the root is not finite at 0
        return {"gp": (slopes - 1).square().mean()}


def _squared_slopes(critic: CriticProtocol, images: Tensor) -> Tensor:
    """||gradient of the logits by the image||^2 for each map and image, [maps, B]."""
    images = images.detach().float().requires_grad_()
    squares = []
    # Fused attention has no second-order gradient.
    with torch.autocast(images.device.type, enabled=False), sdpa_kernel(SDPBackend.MATH):
        for logits in critic(images):
            (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
            squares.append(gradient.square().sum(dim=(1, 2, 3)) / logits[0].numel())
    return torch.stack(squares)
