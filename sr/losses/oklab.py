"""Color difference in a perceptual color space."""

import torch
from torch import Tensor, nn

from sr.losses.pixel import mean
from sr.losses.weight_schedules import NonNegative

# Ottosson 2020, https://bottosson.github.io/posts/oklab: linear sRGB to cone responses, and their cube roots to Oklab.
_TO_CONES = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_TO_LAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)
_DARK = 1e-3  # below it the cube root is replaced by its tangent, so that the gradient at black is finite


class Oklab(nn.Module):
    """mean over pixels of lightness * |dL| + chroma * (|da| + |db|), differences in Oklab (Ottosson 2020).

    A step in Oklab looks about equally large in every color. L is in 0..1, a and b in about -0.4..0.4.
    Below 0.1 % of white the space is linear instead of a cube root.
    lightness: weight of brightness; 0 compares the color alone. chroma: weight of color.
    """

    def __init__(self, *, lightness: NonNegative = 1.0, chroma: NonNegative = 1.0) -> None:
        super().__init__()
        self.lightness, self.chroma = lightness, chroma

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        differences = (a - b for a, b in zip(oklab(output.float()), oklab(target.float()), strict=True))
        lightness, a, b = (mean(difference.abs()) for difference in differences)
        return self.lightness * lightness + self.chroma * (a + b)


def oklab(rgb: Tensor) -> list[Tensor]:
    """sRGB [B, 3, h, w], nominally in 0..1, to L, a and b [B, h, w]."""
    linear = torch.where(rgb > 0.04045, ((rgb.clamp(min=0.04) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    cones = [_root(cone) for cone in _times(_TO_CONES, list(linear.unbind(1)))]
    return _times(_TO_LAB, cones)


def _root(x: Tensor) -> Tensor:
    tangent = _DARK ** (1 / 3) * (2 / 3 + x / (3 * _DARK))
    return torch.where(x > _DARK, x.clamp(min=_DARK) ** (1 / 3), tangent)


def _times(matrix: tuple[tuple[float, ...], ...], planes: list[Tensor]) -> list[Tensor]:
    """Plane by plane: a matrix product would be rounded by TF32 and autocast."""
    return [row[0] * planes[0] + row[1] * planes[1] + row[2] * planes[2] for row in matrix]
