"""NIQE (Mittal, Soundararajan and Bovik, IEEE SPL 2013): how far an image is from natural ones, without a target."""

import functools
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sr.evaluate.metrics.protocol import counted
from sr.images import bicubic

BLOCK = 96  # pixels a side, the authors'
_GRID = torch.arange(0.2, 10.0005, 0.001, dtype=torch.float64)  # shapes to choose from, as the authors'


def niqe(output: Tensor, target: Tensor, *, border: int) -> Tensor:
    """Lower is more natural; below 4 is a good photograph, over 8 a bad one. `target` has no part in it.

    output: [3, h, w] in 0..1. border: pixels left out on every side. The luma, rounded, in blocks of 96 pixels at full
    and half size; rows and columns that fill no block are left out. nan where there are fewer than two blocks that are
    not flat, of which no covariance is known.
    """
    mean, covariance = (each.to(output.device) for each in _pristine())
    luma = counted(output, border=border, y=True)[0].round().float()
    rows, columns = (side // BLOCK for side in luma.shape)
    if rows * columns < 2:
        return torch.tensor(math.nan)
    luma = luma[: rows * BLOCK, : columns * BLOCK]
    half = bicubic.resize(luma.double() / 255, scale=0.5).float() * 255
    features = torch.cat([_features(_normalized(luma), BLOCK), _features(_normalized(half), BLOCK // 2)], 1)
    away = mean - features.nanmean(0)
    found, whole = _covariance(features)
    inverse = torch.linalg.pinv((covariance + found) / 2, hermitian=True)
    return torch.where(whole < 2, math.nan, (away @ inverse @ away).clamp(min=0).sqrt())


def _covariance(features: Tensor) -> tuple[Tensor, Tensor]:
    """The covariance of the rows [n, 36] without nan, and their number. Waits for no device."""
    whole = ~features.isnan().any(1, keepdim=True)
    count = whole.sum()
    centered = features - features.where(whole, 0).sum(0) / count.clamp(min=1)
    centered = centered.where(whole, 0)
    return centered.T @ centered / (count - 1).clamp(min=1), count


@functools.cache
def _pristine() -> tuple[Tensor, Tensor]:
    """Mean [36] and covariance [36, 36] of the features of 125 photographs, as the authors published them."""
    with np.load(Path(__file__).with_name("niqe_natural.npz"), allow_pickle=False) as content:
        return torch.from_numpy(content["mean"]), torch.from_numpy(content["covariance"])


def _normalized(image: Tensor) -> Tensor:
    """(image - local mean) / (local deviation + 1), equation 1, under a 7 x 7 Gaussian of sigma 7/6. [h, w] float32.

    Sums in double, results in single precision as basicsr has them: so the local mean of a flat area is its value, and
    not that with a rounding error above or below, which would count as structure.
    """
    taps = torch.exp(-((torch.arange(7, dtype=torch.float64) - 3) ** 2) / (2 * (7 / 6) ** 2))
    window = (torch.outer(taps, taps) / taps.sum() ** 2).to(image.device)

    def blurred(x: Tensor) -> Tensor:
        padded = F.pad(x[None, None].double(), (3, 3, 3, 3), mode="replicate")
        return F.conv2d(padded, window[None, None])[0, 0].float()

    mean = blurred(image)
    return (image - mean) / ((blurred(image.square()) - mean.square()).abs().sqrt() + 1)


def _features(image: Tensor, side: int) -> Tensor:
    """18 of each block of `side` pixels, [blocks, 18]: the fit to its values, and to the products with neighbours."""
    blocks = image.unfold(0, side, side).unfold(1, side, side).reshape(-1, side, side)
    shape, left, right = _fit(blocks)
    features = [shape, (left + right) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        shape, left, right = _fit(blocks * blocks.roll(shift, (1, 2)))
        mean = (right - left) * (torch.lgamma(2 / shape) - torch.lgamma(1 / shape)).exp()
        features += [shape, mean, left, right]
    return torch.stack(features, 1)


def _fit(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Asymmetric generalised Gaussians by their moments, equation 7: shape, left and right scale, each [blocks].

    Flat blocks, which have neither side, come back with nan scales and the smallest shape.
    """
    values = blocks.flatten(1).double()
    left, right = (
        (values.square() * side).sum(1).div(side.sum(1)).sqrt() for side in (values < 0, values > 0)
    )  # nan for none
    skew = left / right
    ratio = values.abs().mean(1).square() / values.square().mean(1)
    ratio = ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shape = _GRID.to(ratio.device)[_nearest(_ratios().to(ratio.device), ratio)]
    scale = ((torch.lgamma(1 / shape) - torch.lgamma(3 / shape)) / 2).exp()
    return shape, left * scale, right * scale


@functools.cache
def _ratios() -> Tensor:
    """(E|x|)² / E x² of a generalised Gaussian of each shape of the grid; it grows with the shape."""
    inverse = 1 / _GRID
    return (2 * torch.lgamma(2 * inverse) - torch.lgamma(inverse) - torch.lgamma(3 * inverse)).exp()


def _nearest(sorted_values: Tensor, wanted: Tensor) -> Tensor:
    above = torch.searchsorted(sorted_values, wanted.nan_to_num(-math.inf)).clamp(1, len(sorted_values) - 1)
    closer_below = (wanted - sorted_values[above - 1]) <= (sorted_values[above] - wanted)
    return torch.where(closer_below | wanted.isnan(), above - 1, above)
