"""Structural similarity: Wang, Bovik, Sheikh and Simoncelli, IEEE TIP 2004."""

import torch
from torch import Tensor

from sr.evaluate.metrics.protocol import counted

WINDOW = 11
_SIGMA = 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def ssim(output: Tensor, target: Tensor, *, border: int, y: bool = True) -> float:
    """Mean of the SSIM map over the windows inside the image, 1 for equal images.

    output, target: [3, h, w] in 0..1, at least WINDOW + 2 * border pixels a side.
    y: on luma, as the super-resolution papers report, else the mean over R, G and B.
    The window is the paper's 11 x 11 Gaussian of sigma 1.5; no downsampling, as in the authors' first MATLAB code.
    """
    a, b = counted(output, border=border, y=y), counted(target, border=border, y=y)
    mean_a, mean_b = _local_mean(a), _local_mean(b)
    variance_a = _local_mean(a * a) - mean_a**2
    variance_b = _local_mean(b * b) - mean_b**2
    covariance = _local_mean(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_a + variance_b + _C2)
    return (luminance * structure).mean().item()


def _local_mean(x: Tensor) -> Tensor:
    """Gaussian mean over each full window: [c, h, w] -> [c, h-10, w-10].

    A sum of shifted views: float64 convolution would unfold the image and need eleven times its memory.
    """
    taps = torch.exp(-((torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2) ** 2) / (2 * _SIGMA**2))
    weights = (taps / taps.sum()).tolist()
    for axis in (1, 2):
        length = x.shape[axis] - WINDOW + 1
        total = weights[0] * x.narrow(axis, 0, length)
        for i, weight in enumerate(weights[1:], start=1):
            total.add_(x.narrow(axis, i, length), alpha=weight)
        x = total
    return x
