"""Bicubic resizing like MATLAB's `imresize`, which super-resolution papers call "bicubic"."""

import math
from functools import lru_cache

import torch
from torch import Tensor

SUPPORT = 4.0  # width of the cubic kernel, in input pixels


@torch.no_grad()
def resize(
    x: Tensor, *, size: tuple[int, int] | None = None, scale: float | None = None, antialias: bool = True
) -> Tensor:
    """Resize the last two axes of float `x` [..., h, w].

    Uses Keys' cubic kernel with a = -0.5 (IEEE ASSP 29, 1981) and symmetric borders (the edge pixel is repeated).
    Values are not clamped and may exceed the range of the input.

    Args:
        size: (h, w) of the output. Give either this or `scale`.
        scale: factor; the output has ceil(side * scale) pixels.
        antialias: stretch the kernel when downscaling.
    """
    height, width = x.shape[-2:]
    if scale is not None and size is None:
        size, scales = (math.ceil(height * scale), math.ceil(width * scale)), (scale, scale)
    elif size is not None and scale is None:
        scales = (size[0] / height, size[1] / width)
    else:
        raise ValueError("give either size or scale")
    return _along(_along(x, -2, size[0], scales[0], antialias), -1, size[1], scales[1], antialias)


def _along(x: Tensor, axis: int, n_out: int, scale: float, antialias: bool) -> Tensor:
    indices, weights = _taps(x.shape[axis], n_out, scale, antialias, x.device, x.dtype)
    if axis == -2:
        weights = weights[..., None]
    # One tap at a time: gathering all taps at once would hold that many copies of the image.
    total = x.index_select(axis, indices[0]) * weights[0]
    for index, weight in zip(indices[1:], weights[1:], strict=True):
        total.addcmul_(x.index_select(axis, index), weight)
    return total


@lru_cache(maxsize=64)
def matrix(n_in: int, n_out: int) -> Tensor:
    """The weights of `resize` along one axis with antialiasing, float64 [n_out, n_in] on the host."""
    indices, weights = _taps(n_in, n_out, n_out / n_in, True, torch.device("cpu"), torch.float64)
    return weights.new_zeros(n_out, n_in).scatter_add_(1, indices.T, weights.T)


@lru_cache(maxsize=64)
def _taps(
    n_in: int, n_out: int, scale: float, antialias: bool, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Input indices and weights of every output pixel, both [taps, n_out]."""
    shrink = min(scale, 1.0) if antialias else 1.0
    width = SUPPORT / shrink
    centre = (torch.arange(n_out, dtype=torch.float64) + 0.5) / scale - 0.5
    first = torch.floor(centre - width / 2)
    indices = first + torch.arange(math.ceil(width) + 2, dtype=torch.float64)[:, None]
    weights = _cubic((centre - indices) * shrink)
    weights = weights / weights.sum(0)
    used = weights.abs().amax(1) > 0
    mirrored = indices[used].long() % (2 * n_in)
    mirrored = torch.minimum(mirrored, 2 * n_in - 1 - mirrored)
    return mirrored.to(device), weights[used].to(device, dtype)


def _cubic(x: Tensor) -> Tensor:
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x <= 1, near, torch.where(x <= 2, far, 0.0))
