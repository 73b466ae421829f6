"""Structural similarity (SSIM): Wang, Bovik, Sheikh and Simoncelli, IEEE TIP 2004. The loss and the metric use it."""

import torch
from torch import Tensor

from sr.images.filters import gaussian, smooth

TAPS = gaussian(1.5, reach=5)
WINDOW = len(TAPS)


def ssim_maps(a: Tensor, b: Tensor, *, peak: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return (luminance, contrast times structure) of every window: [..., c, h, w] -> [..., c, h - 10, w - 10].

    The product of the two is the SSIM map of equation 13. The window is the paper's 11 x 11 Gaussian of sigma 1.5, and
    the constants are (0.01 peak)² and (0.03 peak)².

    Args:
        a, b: images of the same shape, at least WINDOW pixels a side.
        peak: the largest possible value.
    """
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    images = a, b, a * a, b * b, a * b
    if torch.is_grad_enabled():  # fewer operations
        mean_a, mean_b, square_a, square_b, product = smooth(torch.stack(images), TAPS)
    else:  # less memory
        mean_a, mean_b, square_a, square_b, product = (smooth(image, TAPS) for image in images)
    variances = square_a - mean_a**2 + square_b - mean_b**2
    structure = (2 * (product - mean_a * mean_b) + c2) / (variances + c2)
    return (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1), structure
