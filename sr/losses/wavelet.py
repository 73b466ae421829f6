"""A loss on the bands of a wavelet transform."""

import math
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sr.images.filters import slide
from sr.losses.pixel import mean
from sr.losses.weight_schedules import NonNegative


class Wavelet(nn.Module):
    """sum over levels of the mean absolute difference of the detail bands, and `low` times that of the low-pass band.

    The transform is stationary (not decimated, Nason and Silverman 1995), so the loss does not depend on the position
    of the sampling grid; Korkmaz et al. 2024 (WGSR) train GANs with such a loss. Filters sum to 1, and borders are
    repeated.
    levels: octaves; the filter of level j is 2^(j-1) times as wide. order: of Daubechies' wavelet, 1 is Haar's. low:
    weight of the low-pass band of the last level. diagonal: weight of the diagonal details of each level; horizontal
    and vertical ones have 1.
    """

    def __init__(
        self,
        *,
        levels: Annotated[int, Field(ge=1, le=6)] = 3,
        order: Annotated[int, Field(ge=1, le=10)] = 2,
        low: NonNegative = 0.1,
        diagonal: NonNegative = 1.0,
    ) -> None:
        super().__init__()
        self.levels, self.low, self.diagonal = levels, low, diagonal
        self.smooth = daubechies(order)
        self.detail = [(-1) ** place * tap for place, tap in enumerate(reversed(self.smooth))]

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        band = output.float() - target.float()  # the transform is linear
        terms = []
        for level in range(self.levels):
            reach = (len(self.smooth) - 1) * 2**level
            padded = F.pad(band, (0, reach, 0, reach), mode="replicate")
            low, high = (slide(padded, _spread(taps, 2**level), -1) for taps in (self.smooth, self.detail))
            smooth, detail = _spread(self.smooth, 2**level), _spread(self.detail, 2**level)
            terms += [mean(slide(low, detail, -2).abs()), mean(slide(high, smooth, -2).abs())]
            terms.append(self.diagonal * mean(slide(high, detail, -2).abs()))
            band = slide(low, smooth, -2)
        return torch.stack([*terms, self.low * mean(band.abs())]).sum()


def daubechies(order: int) -> list[float]:
    """The low-pass filter with `order` vanishing moments, 2 * order taps that sum to 1 (Daubechies 1988, section 4).

    (1 + z)^order times the roots inside of the unit circle of the polynomial that makes shifted copies orthogonal.
    """
    halves = np.roots([math.comb(order - 1 + k, k) for k in reversed(range(order))])
    pairs = [np.roots([1, 4 * y - 2, 1]) for y in halves]
    inside = [min(pair, key=abs) for pair in pairs]
    taps = np.poly([*[-1.0] * order, *inside]).real
    return [float(tap) for tap in taps / taps.sum()]


def _spread(taps: list[float], step: int) -> list[float]:
    """Put step - 1 zeros between the taps."""
    spread = [0.0] * ((len(taps) - 1) * step + 1)
    spread[::step] = taps
    return spread
