"""Losses that compare pixel by pixel."""

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

Positive = Annotated[float, Field(gt=0)]


class L1(nn.Module):
    """mean |output - target|."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return F.l1_loss(output.float(), target.float())


class L2(nn.Module):
    """mean (output - target)², the mean squared error: highest PSNR, smoothest pictures."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(output.float(), target.float())


class Charbonnier(nn.Module):
    """mean sqrt((output - target)² + eps): L1 with a rounded tip (Lai et al. 2017, LapSRN).

    eps: as basicsr has it, inside the root; LapSRN's is 1e-6.
    """

    def __init__(self, *, eps: Positive = 1e-12) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return ((output.float() - target.float()).square() + self.eps).sqrt().mean()


class Huber(nn.Module):
    """mean of d² / 2 where |d| <= delta, else delta (|d| - delta / 2), with d = output - target (Huber 1964).

    delta: in the images' unit; 1 and more make it half the squared error everywhere.
    """

    def __init__(self, *, delta: Positive = 0.1) -> None:
        super().__init__()
        self.delta = delta

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return F.huber_loss(output.float(), target.float(), delta=self.delta)
