"""The blur kernels of Real-ESRGAN (Wang et al. 2021, sections 3.1, 3.3): float64 [size, size] on the host, sum 1."""

import math
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"]


def bell(
    size: int, *, sigma_x: float, sigma_y: float, rotation: float = 0.0, beta: float = 1.0, plateau: bool = False
) -> Tensor:
    """exp(-q^beta / 2), or the plateau 1 / (1 + q^beta), where q is the squared distance in units of the sigmas.

    The sigmas are in pixels; `rotation` turns them from x towards y, in radians. exp with beta = 1 is the Gaussian.
    """
    y, x = _grid(size)
    along = (x * math.cos(rotation) + y * math.sin(rotation)) / sigma_x
    across = (y * math.cos(rotation) - x * math.sin(rotation)) / sigma_y
    q = (along.square() + across.square()).pow(beta)
    kernel = 1 / (1 + q) if plateau else torch.exp(-0.5 * q)
    return kernel / kernel.sum()


def sinc(size: int, cutoff: float) -> Tensor:
    """Circular low-pass with its `cutoff` in radians per pixel; it leaves rings along edges."""
    y, x = _grid(size)
    radius = torch.hypot(x, y)
    kernel = cutoff * torch.special.bessel_j1(cutoff * radius) / (2 * math.pi * radius)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * math.pi)
    return kernel / kernel.sum()


def _grid(size: int) -> tuple[Tensor, Tensor]:
    axis = torch.arange(size, dtype=torch.float64) - size // 2
    return axis[:, None].expand(size, size), axis[None, :].expand(size, size)
