"""Blur kernels of Real-ESRGAN (Wang et al. 2021, sections 3.1 and 3.3), made in batches; each sums to 1."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Kind = Literal["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"]


class BellKernel(NamedTuple):
    """Kernel exp(-q^beta / 2), or the plateau 1 / (1 + q^beta), where q is the squared distance in units of sigma.

    The sigmas are in pixels; `rotation` rotates their axes from x towards y, in radians. exp with beta = 1 is the
    Gaussian.
    """

    size: int
    sigma_x: float
    sigma_y: float
    rotation: float = 0.0
    beta: float = 1.0
    plateau: bool = False


class SincKernel(NamedTuple):
    """Circular low-pass (sinc) kernel with `cutoff` in radians per pixel; it causes ringing along edges."""

    size: int
    cutoff: float


def synthesize(shapes: Sequence[BellKernel | SincKernel], side: int) -> Tensor:
    """Make float64 kernels [n, side, side] on the host, centered and padded with zeros.

    On a GPU the 40 kernel launches would take longer than this.
    """
    bells = [shape for shape in shapes if isinstance(shape, BellKernel)]
    rings = [shape for shape in shapes if isinstance(shape, SincKernel)]
    axis = torch.arange(side, dtype=torch.float64) - side // 2
    made = torch.cat([*([_bells(bells, axis)] if bells else []), *([_rings(rings, axis)] if rings else [])])
    made /= made.sum((-2, -1), keepdim=True)
    if not (bells and rings):
        return made
    places = iter(range(len(bells))), iter(range(len(bells), len(shapes)))
    return made[[next(places[isinstance(shape, SincKernel)]) for shape in shapes]]


def _bells(shapes: list[BellKernel], axis: Tensor) -> Tensor:
    turns = [(math.cos(shape.rotation), math.sin(shape.rotation)) for shape in shapes]
    rows = [(s.size // 2, c / s.sigma_x, n / s.sigma_x, c / s.sigma_y, n / s.sigma_y, s.beta, s.plateau)
            for s, (c, n) in zip(shapes, turns, strict=True)]  # fmt: skip
    reach, cos_x, sin_x, cos_y, sin_y, beta, plateau = _columns(rows)
    x, y = axis, axis[:, None]
    q = ((x * cos_x + y * sin_x).square() + (y * cos_y - x * sin_y).square()).pow(beta)
    return _cut(torch.where(plateau > 0, 1 / (1 + q), torch.exp(-0.5 * q)), axis, reach)


def _rings(shapes: list[SincKernel], axis: Tensor) -> Tensor:
    reach, cutoff = _columns([(shape.size // 2, shape.cutoff) for shape in shapes])
    radius = torch.hypot(axis, axis[:, None])
    rings = cutoff * torch.special.bessel_j1(cutoff * radius) / (2 * math.pi * radius)
    return _cut(torch.where(radius == 0, cutoff**2 / (4 * math.pi), rings), axis, reach)


def _columns(rows: list[tuple]) -> tuple[Tensor, ...]:
    """Return the parameters as tensors [n, 1, 1]."""
    return torch.tensor(rows, dtype=torch.float64)[..., None, None].unbind(1)


def _cut(kernels: Tensor, axis: Tensor, reach: Tensor) -> Tensor:
    inside = axis.abs() <= reach  # [n, 1, side]
    return kernels * (inside & inside.mT)
