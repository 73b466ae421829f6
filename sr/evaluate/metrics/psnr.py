"""Peak signal-to-noise ratio."""

import torch
from torch import Tensor

from sr.evaluate.metrics.protocol import counted


def psnr(output: Tensor, target: Tensor, *, border: int, y: bool = True) -> Tensor:
    """10 log10(255² / mean squared error), in dB; infinite for equal images.

    output, target: [3, h, w] in 0..1. border: pixels left out on every side, by custom the scale.
    y: on luma, as the super-resolution papers report, else on RGB.
    """
    error = counted(output, border=border, y=y) - counted(target, border=border, y=y)
    return 10 * torch.log10(255**2 / error.square().mean())
