"""Losses that compare pixel by pixel."""

import torch.nn.functional as F
from torch import Tensor, nn


class L1(nn.Module):
    """mean |output - target|."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return F.l1_loss(output.float(), target.float())
