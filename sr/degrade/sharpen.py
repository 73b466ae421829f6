"""Unsharp masking of the ground truth, so that the network learns crisp pictures without overshoot."""

from functools import lru_cache

import torch
from torch import Tensor

from sr.degrade.draws import Draw
from sr.degrade.filters import filter2d
from sr.degrade.stage import NotNegative, PerSample

TAPS = 51
SIGMA = 8.0


class Sharpen(PerSample):
    """Unsharp masking where a picture differs from its blur by more than `threshold` 8-bit levels, as in Real-ESRGAN.

    target: the fidelity losses compare with the ground truth sharpened the same way; the discriminator sees it plain.
    """

    def __init__(self, *, weight: NotNegative = 0.5, threshold: NotNegative = 10.0, target: bool = True) -> None:
        super().__init__()
        self.weight, self.threshold, self.target = weight, threshold, target

    def apply(self, image: Tensor, draw: Draw) -> Tensor:
        return self.sharpen(image)

    def sharpen(self, image: Tensor) -> Tensor:
        """[3, h, w] in 0..1, same out."""
        kernel = _kernel(image.device)
        detail = image - filter2d(image, kernel)
        mask = filter2d((detail.abs() * 255 > self.threshold).float(), kernel)
        sharp = (image + self.weight * detail).clamp(0, 1)
        return mask * sharp + (1 - mask) * image


@lru_cache(maxsize=8)
def _kernel(device: torch.device) -> Tensor:
    axis = torch.arange(TAPS, dtype=torch.float64) - TAPS // 2
    line = torch.exp(-axis.square() / (2 * SIGMA**2))
    line = line / line.sum()
    return torch.outer(line, line).to(device, torch.float32)
