"""JPEG compression on the device: what a codec loses, without the codec's bit stream."""

import math
from functools import lru_cache
from typing import Annotated

import torch
from pydantic import AfterValidator, Field
from torch import Tensor
from torch.nn import functional

from sr.degrade.draws import Draw
from sr.degrade.stage import PerSample, Prob, ascending

# ITU-T T.81, tables K.1 and K.2.
LUMINANCE = [
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
]
CHROMINANCE = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]  # all else is 99

Quality = Annotated[float, Field(ge=1, le=99)]  # at 100 the quantisation steps are 0


class Jpeg(PerSample):
    """JPEG with 4:2:0 chroma at a quality drawn per sample. Default: Real-ESRGAN's."""

    def __init__(
        self, *, prob: Prob = 1.0, quality: Annotated[tuple[Quality, Quality], AfterValidator(ascending)] = (30.0, 95.0)
    ) -> None:
        super().__init__(prob)
        self.quality = quality

    def apply(self, image: Tensor, draw: Draw) -> Tensor:
        return jpeg(image.clamp(0, 1), draw.uniform(self.quality))


def jpeg(image: Tensor, quality: float) -> Tensor:
    """[3 or 1, h, w] in 0..1 as it comes back from JPEG of that quality (1..99), not rounded to 8 bits.

    Sides are filled with black to multiples of 16. As in Real-ESRGAN's, the luminance table lies transposed.
    """
    if image.shape[0] == 1:
        return jpeg(image.expand(3, -1, -1), quality)[:1]
    step = (5000 / quality if quality < 50 else 200 - 2 * quality) / 100
    height, width = image.shape[-2:]
    y, cb, cr = _to_ycc(functional.pad(image, (0, -width % 16, 0, -height % 16)) * 255)
    luminance, chrominance = _tables(image.device)
    y = _quantize(y, luminance * step)
    chroma = functional.avg_pool2d(torch.stack([cb, cr]), 2)
    chroma = _quantize(chroma, chrominance * step).repeat_interleave(2, -1).repeat_interleave(2, -2)
    return (_to_rgb(y, *chroma) / 255).clamp(0, 1)[:, :height, :width]


def _to_ycc(rgb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """JFIF's YCbCr, all three centred on 0."""
    r, g, b = rgb
    return (
        0.299 * r + 0.587 * g + 0.114 * b - 128,
        -0.168736 * r - 0.331264 * g + 0.5 * b,
        0.5 * r - 0.418688 * g - 0.081312 * b,
    )


def _to_rgb(y: Tensor, cb: Tensor, cr: Tensor) -> Tensor:
    y = y + 128
    return torch.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb])


def _quantize(plane: Tensor, table: Tensor) -> Tensor:
    """Round the 8x8 DCT coefficients of [..., h, w] to multiples of the table [64].

    In float64: TF32 and bf16 matmul settings cannot reach it, and rounding is where they would be seen.
    """
    blocks = plane.unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8)).transpose(-3, -2)
    basis = _dct(plane.device)
    coefficients = blocks.flatten(-2).double() @ basis.T
    samples = (coefficients / table).round() * table @ basis
    return samples.to(plane.dtype).unflatten(-1, (8, 8)).transpose(-3, -2).flatten(-2).flatten(-3, -2)


@lru_cache(maxsize=8)
def _dct(device: torch.device) -> Tensor:
    """The orthonormal two-dimensional DCT-II of an 8x8 block as one [64, 64] matrix."""
    n = torch.arange(8, dtype=torch.float64)
    line = torch.cos((2 * n + 1) * n[:, None] * math.pi / 16) / 2
    line[0] /= math.sqrt(2)
    return torch.kron(line, line).to(device)


@lru_cache(maxsize=8)
def _tables(device: torch.device) -> tuple[Tensor, Tensor]:
    chrominance = torch.full((8, 8), 99.0)
    chrominance[:4, :4] = torch.tensor(CHROMINANCE)
    return torch.tensor(LUMINANCE).T.flatten().double().to(device), chrominance.flatten().double().to(device)
