"""Conversion between RGB and CIE L*a*b* for colorization, which predicts a and b from L.

sRGB with white point D65 as in scikit-image, whose `rgb2lab` the colorization model of pytorch-CycleGAN-and-pix2pix
uses. Codes are Lab in 0..1: L / 100 and (ab / 110 + 1) / 2, so that model is trained on 2 * code - 1.
All functions except `lab_codes` take tensors or arrays [..., channels, h, w] and return the same type.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

AB = 110.0  # sRGB reaches from -107.9 to 98.3
_TO_XYZ = (0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227)
_TO_RGB = np.linalg.inv(np.array(_TO_XYZ)).tolist()
_WHITE = 0.95047, 1.0, 1.08883


def rgb_to_lab(rgb: Any) -> Any:
    """Convert RGB in 0..1 to L in 0..100 and a, b in -110..110."""
    lib = _library(rgb)
    linear = lib.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    x, y, z = (_cube_root(lib, plane / white) for plane, white in zip(_times(_TO_XYZ, linear), _WHITE, strict=True))
    return lib.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -3)


def lab_to_rgb(lab: Any) -> Any:
    """Convert L in 0..100 and a, b to RGB in 0..1; colors outside of sRGB are clipped."""
    lib = _library(lab)
    y = (lab[..., 0, :, :] + 16) / 116
    roots = y + lab[..., 1, :, :] / 500, y, (y - lab[..., 2, :, :] / 200).clip(0)
    xyz = [
        white * lib.where(root > 0.2068966, root**3, (root - 16 / 116) / 7.787)
        for root, white in zip(roots, _WHITE, strict=True)
    ]
    linear = lib.stack(_times(_TO_RGB, lib.stack(xyz, -3)), -3).clip(0, 1)
    return lib.where(linear > 0.0031308, 1.055 * linear.clip(0.003) ** (1 / 2.4) - 0.055, linear * 12.92).clip(0, 1)


def lightness(rgb: Tensor) -> Tensor:
    """Convert RGB in 0..1 [..., 3, h, w] to codes of L in 0..1 [..., 1, h, w], the input of a colorization model."""
    return rgb_to_lab(rgb)[..., :1, :, :] / 100


def colorized(lightness: Tensor, ab: Tensor) -> Tensor:
    """Convert codes of L [..., 1, h, w] and of a, b [..., 2, h, w], all in 0..1, to RGB in 0..1 [..., 3, h, w]."""
    lab: Tensor = lab_to_rgb(torch.cat([lightness * 100, (ab * 2 - 1) * AB], -3))
    return lab


def lab_codes(pixels: np.ndarray) -> np.ndarray:
    """Convert RGB uint8 [h, w, 3] to codes uint8 [h, w, 3]: L * 255 / 100 and (ab / 110 + 1) / 2 * 255, rounded.

    Computed with numpy in one thread: in torch, the number of threads affects the last bit.
    """
    lab = rgb_to_lab(pixels.transpose(2, 0, 1).astype(np.float32, order="C") / 255)
    codes = np.concatenate([lab[:1] / 100, (lab[1:] / AB + 1) / 2])
    return np.ascontiguousarray((codes * 255).round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def _library(x: Any) -> Any:
    return torch if isinstance(x, Tensor) else np


def _times(matrix: Any, planes: Any) -> list[Any]:
    """Multiply plane by plane: a matrix product may round differently on another machine."""
    first, second, third = (planes[..., channel, :, :] for channel in range(3))
    return [row[0] * first + row[1] * second + row[2] * third for row in matrix]


def _cube_root(lib: Any, x: Any) -> Any:
    return lib.where(x > 0.008856, x.clip(0.008) ** (1 / 3), 7.787 * x + 16 / 116)
