"""Losses that compare pixel by pixel."""

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

Positive = Annotated[float, Field(gt=0)]


def mean(x: Tensor) -> Tensor:
    """`x.mean()` with a gradient in the memory format of x.

    The gradient of `Tensor.mean` is contiguous, which costs copies in the backward pass of a channels_last network.
    """
    return x.sum() / x.numel()


class _Pixel(nn.Module):
    """range: the width of the pixel range that the weight is meant for. Images are in 0..1; with 2 the loss equals that
    for images in -1..1, so that lambda = 100 of pix2pix is the weight 100.
    """

    def __init__(self, *, range: Positive = 1.0) -> None:
        super().__init__()
        self.range = range


class L1(_Pixel):
    """range * mean |output - target|."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return self.range * mean((output.float() - target.float()).abs())


class L2(_Pixel):
    """mean (range * (output - target))², the mean squared error: highest PSNR, smoothest images."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return self.range**2 * mean((output.float() - target.float()).square())


class Charbonnier(_Pixel):
    """mean sqrt((range * (output - target))² + eps): smooth L1 (Lai et al. 2017, LapSRN).

    eps: inside the root, as in basicsr; LapSRN uses 1e-6.
    """

    def __init__(self, *, eps: Positive = 1e-12, range: Positive = 1.0) -> None:
        super().__init__(range=range)
        self.eps = eps

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return mean(((self.range * (output.float() - target.float())).square() + self.eps).sqrt())


class Huber(_Pixel):
    """mean of d² / 2 where |d| <= delta, else delta (|d| - delta / 2), with d = range * (output - target) (Huber 1964).

    delta: in the unit of d; from `range` on, the loss is half the squared error everywhere.
    """

    def __init__(self, *, delta: Positive = 0.1, range: Positive = 1.0) -> None:
        super().__init__(range=range)
        self.delta = delta

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return F.huber_loss(self.range * output.float(), self.range * target.float(), delta=self.delta)
