"""Small separable filters for losses."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def slide(x: Tensor, taps: Sequence[float], axis: int) -> Tensor:
    """Correlate along one axis with `taps` without padding: the axis gets len(taps) - 1 shorter.

    A weighted sum of shifted views instead of a convolution, whose operands autocast and TF32 would round: SSIM
    subtracts nearly equal means, so that few digits of the difference would remain.
    """
    length = x.shape[axis] - len(taps) + 1
    total: Tensor | None = None
    for i, tap in enumerate(taps):
        if tap:
            view = tap * x.narrow(axis, i, length)
            total = view if total is None else total + view  # one at a time, which bounds the memory
    assert total is not None
    return total


def smooth(x: Tensor, taps: Sequence[float]) -> Tensor:
    """[..., h, w] correlated with `taps` along height and width, without padding."""
    return slide(slide(x, taps, -2), taps, -1)


def gaussian(sigma: float, reach: int) -> list[float]:
    """2 * reach + 1 taps that sum to 1; sigma in pixels."""
    taps = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(-reach, reach + 1)]
    return [tap / sum(taps) for tap in taps]


def length(*parts: Tensor) -> Tensor:
    """Root of the sum of squares, with gradient 0 where all parts are 0."""
    return torch.stack([part.square() for part in parts]).sum(0).add(1e-12).sqrt()
