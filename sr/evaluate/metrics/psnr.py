"""Peak signal-to-noise ratio."""

import math

from torch import Tensor

from sr.evaluate.metrics.protocol import counted


def psnr(output: Tensor, target: Tensor, *, border: int, y: bool = True) -> float:
    """10 log10(255² / mean squared error), in dB; infinite for equal images.

    output, target: [3, h, w] in 0..1. border: pixels left out on every side, by custom the scale.
    y: on luma, as the super-resolution papers report, else on RGB.
    """
    error = counted(output, border=border, y=y) - counted(target, border=border, y=y)
    mean = error.square().mean().item()
    return math.inf if mean == 0 else 10 * math.log10(255**2 / mean)
