"""JPEG compression on the device: the loss of a codec, without entropy coding."""

import math
from functools import lru_cache
from typing import Annotated

import torch
from pydantic import AfterValidator, Field
from torch import Tensor
from torch.nn import functional

from sr.config.ranges import ascending
from sr.degrade.canvas import each
from sr.degrade.draws import Draw
from sr.degrade.stage import Prob, RandomStage

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
CHROMINANCE = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]  # 99 elsewhere

# YCbCr of JFIF, without the offsets.
LUMA, CB, CR = (0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312)

Quality = Annotated[float, Field(ge=1, le=99)]  # at 100 the quantization steps are 0


class Jpeg(RandomStage):
    """JPEG compression with 4:2:0 chroma at a random quality per sample. Defaults: Real-ESRGAN's."""

    def __init__(
        self, *, prob: Prob = 1.0, quality: Annotated[tuple[Quality, Quality], AfterValidator(ascending)] = (30.0, 95.0)
    ) -> None:
        super().__init__(prob)
        self.quality = quality

    def apply(self, images: list[Tensor], draws: list[Draw]) -> list[Tensor]:
        return jpeg(images, [draw.uniform(self.quality) for draw in draws])


def jpeg(images: list[Tensor], qualities: list[float]) -> list[Tensor]:
    """Compress and decompress images [3 or 1, h, w] at these qualities (1..99).

    Values are clamped to 0..1 first, and sides are padded with black to multiples of 16. The result is in 0..1 and not
    rounded to 8 bits. As in Real-ESRGAN, the luminance table is transposed.
    """
    steps = [(5000 / quality if quality < 50 else 200 - 2 * quality) / 100 for quality in qualities]
    channels = images[0].shape[0]
    images = [image.expand(3, -1, -1) for image in images]
    return [image[:channels] for image in each(_coded, images, torch.tensor(steps, dtype=torch.float64))]


def _coded(images: Tensor, steps: Tensor) -> Tensor:
    """Compress [n, 3, h, w]; steps: float64 [n], factors of the quantization tables."""
    height, width = images.shape[-2:]
    full = functional.pad(images.clamp(0, 1).mul_(255), (0, -width % 16, 0, -height % 16))
    half = full[..., ::2, :] + full[..., 1::2, :]
    half = (half[..., ::2] + half[..., 1::2]).mul_(0.25)
    luminance, chrominance = (steps[:, None, None] * table for table in _tables(images.device))
    y = _quantize(_mix(full, *LUMA).sub_(128), luminance)
    cb, cr = (
        _quantize(_mix(half, *weights), chrominance).repeat_interleave(2, -1).repeat_interleave(2, -2)
        for weights in (CB, CR)
    )
    y.add_(128)
    red, blue = torch.add(y, cr, alpha=1.402), torch.add(y, cb, alpha=1.772)
    green = y.add_(cb, alpha=-0.344136).add_(cr, alpha=-0.714136)
    return torch.stack([red, green, blue], 1).div_(255).clamp_(0, 1)[..., :height, :width]


def _mix(images: Tensor, red: float, green: float, blue: float) -> Tensor:
    """Weighted sum of the channels: [n, 3, h, w] -> [n, h, w]."""
    return (images[:, 0] * red).add_(images[:, 1], alpha=green).add_(images[:, 2], alpha=blue)


def _quantize(planes: Tensor, tables: Tensor) -> Tensor:
    """Round the 8x8 DCT coefficients of [n, h, w] to multiples of the tables [n, 1, 64].

    Computed in float64, which TF32 and bf16 matmul settings do not affect; rounding would amplify their errors.
    """
    basis = _dct(planes.device)
    blocks = planes.unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8)).transpose(-3, -2)  # [n, h/8, w/8, 8, 8]
    coefficients = blocks.double().flatten(-2).flatten(1, 2) @ basis.T
    samples = coefficients.div_(tables).round_().mul_(tables) @ basis
    made = torch.empty_like(planes)
    made.unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8)).transpose(-3, -2).copy_(samples.view(blocks.shape))
    return made


@lru_cache(maxsize=8)
def _dct(device: torch.device) -> Tensor:
    """The orthonormal two-dimensional DCT-II of an 8x8 block as a [64, 64] matrix."""
    n = torch.arange(8, dtype=torch.float64)
    line = torch.cos((2 * n + 1) * n[:, None] * math.pi / 16) / 2
    line[0] /= math.sqrt(2)
    return torch.kron(line, line).to(device)


@lru_cache(maxsize=8)
def _tables(device: torch.device) -> tuple[Tensor, Tensor]:
    chrominance = torch.full((8, 8), 99.0)
    chrominance[:4, :4] = torch.tensor(CHROMINANCE)
    return torch.tensor(LUMINANCE).T.flatten().double().to(device), chrominance.flatten().double().to(device)
