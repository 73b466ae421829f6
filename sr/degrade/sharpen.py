"""Unsharp masking of the ground truth: the network learns sharp images without overshoot."""

from functools import lru_cache

import torch
from torch import Tensor

from sr.degrade.bands import Band, band, separable
from sr.degrade.canvas import each, is_accelerator
from sr.degrade.draws import Draw
from sr.degrade.filters import filter2d
from sr.degrade.stage import NotNegative, RandomStage

TAPS = 51
SIGMA = 8.0


class Sharpen(RandomStage):
    """Sharpen where an image differs from its blur by more than `threshold` 8-bit levels, as in Real-ESRGAN.

    Args:
        weight: factor of the added detail.
        threshold: in 8-bit levels.
        target: use the sharpened ground truth as the target of reconstruction losses; the discriminator still gets
            the original.
    """

    def __init__(self, *, weight: NotNegative = 0.5, threshold: NotNegative = 10.0, target: bool = True) -> None:
        super().__init__()
        self.weight, self.threshold, self.target = weight, threshold, target

    def apply(self, images: list[Tensor], draws: list[Draw]) -> list[Tensor]:
        return self.sharpen(images)

    def sharpen(self, images: list[Tensor]) -> list[Tensor]:
        """Sharpen images [3, h, w] in 0..1."""
        detail = each(torch.sub, images, _blurred(images))
        return each(self._sharpened, images, detail, _blurred(each(self._mask, detail)))

    def _mask(self, detail: Tensor) -> Tensor:
        return torch.gt(detail.abs(), self.threshold / 255, out=torch.empty_like(detail))

    def _sharpened(self, images: Tensor, detail: Tensor, mask: Tensor) -> Tensor:
        return torch.lerp(images, detail.mul_(self.weight).add_(images).clamp_(0, 1), mask)


def _blurred(images: list[Tensor]) -> list[Tensor]:
    """Blur images [c, h, w] with the Gaussian and reflected borders."""
    if is_accelerator(images[0].device):
        return filter2d(images, _kernel())
    return [_blurred_alone(image) for image in images]


def _blurred_alone(image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    if min(height, width) > TAPS // 2:
        return separable(image[None], _gaussian(height), _gaussian(width))[0]
    return filter2d([image], _kernel())[0]


@lru_cache(maxsize=16)
def _gaussian(length: int) -> Band:
    reach = TAPS // 2
    indices = (torch.arange(length)[:, None] + torch.arange(-reach, reach + 1)).abs()
    return band(torch.minimum(indices, 2 * (length - 1) - indices), _line().expand(length, -1))


def _line() -> Tensor:
    axis = torch.arange(TAPS, dtype=torch.float64) - TAPS // 2
    line = torch.exp(-axis.square() / (2 * SIGMA**2))
    return line / line.sum()


@lru_cache(maxsize=1)
def _kernel() -> Tensor:
    return torch.outer(_line(), _line()).float()[None]
