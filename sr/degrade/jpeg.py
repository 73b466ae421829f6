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
from sr.degrade.draws import Draw, upload
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
    tables = torch.tensor(steps, dtype=torch.float64)[:, None, None, None] * _tables()
    if images[0].shape[0] == 1:
        return each(lambda gray, table: _coded(gray.expand(-1, 3, -1, -1), table)[:, :1], images, tables)
    return each(_coded, images, tables)


def _coded(images: Tensor, tables: Tensor) -> Tensor:
    """Compress [n, 3, h, w]; tables: quantization steps of luminance and chrominance, float64 [n, 2, 8, 8].

    Computed in float64, which TF32 and bf16 matmul settings do not affect; rounding would amplify their errors.
    """
    height, width = images.shape[-2:]
    to_y, to_c, from_y, from_c = _colors(images.device)
    full = images.double().clamp_(0, 1)
    if height % 16 or width % 16:
        full = functional.pad(full, (0, -width % 16, 0, -height % 16))
    half = functional.avg_pool2d(full, 2)
    luminance, chrominance = tables[:, :, None, :, None].split(1, 1)
    y = _quantize(_mixed(to_y, full).sub_(128), luminance).add_(128)
    made = _mixed(from_y, y).unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2))  # each chrominance value is for 2x2 pixels
    made += _mixed(from_c, _quantize(_mixed(to_c, half), chrominance))[..., None, :, None]
    return made.flatten(-2).flatten(-3, -2).clamp_(0, 1).to(images.dtype)[..., :height, :width]


def _mixed(weights: Tensor, images: Tensor) -> Tensor:
    """Weighted sums of the channels: [n, c, h, w] -> [n, c', h, w] by weights [c', c]."""
    return torch.bmm(weights.expand(len(images), -1, -1), images.flatten(2)).unflatten(2, images.shape[2:])


def _quantize(planes: Tensor, tables: Tensor) -> Tensor:
    """Round the 8x8 DCT coefficients of [n, c, h, w] to multiples of the tables [n, 1, 1, 8, 1, 8]."""
    count, channels, height, width = planes.shape
    line = _dct(planes.device)
    down = line.expand(count * channels * height // 8, -1, -1)
    coefficients = torch.bmm(down, planes.reshape(-1, 8, width)).view(-1, 8) @ line.T
    blocks = coefficients.view(count, channels, height // 8, 8, width // 8, 8)
    blocks.div_(tables).round_().mul_(tables)
    return torch.bmm(down.mT, (coefficients @ line).view(-1, 8, width)).view_as(planes)


@lru_cache(maxsize=8)
def _dct(device: torch.device) -> Tensor:
    """The orthonormal DCT-II of 8 values as a matrix, float64."""
    n = torch.arange(8, dtype=torch.float64)
    line = torch.cos((2 * n + 1) * n[:, None] * math.pi / 16) / 2
    line[0] /= math.sqrt(2)
    return upload(line, device)


@lru_cache(maxsize=8)
def _colors(device: torch.device) -> tuple[Tensor, ...]:
    """Weights from RGB in 0..1 to Y and to CbCr in 8-bit levels, and back."""
    back = torch.tensor([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]], dtype=torch.float64) / 255
    there = torch.tensor([LUMA, CB, CR], dtype=torch.float64) * 255
    return tuple(upload(part.contiguous(), device) for part in (there[:1], there[1:], back[:, :1], back[:, 1:]))


@lru_cache(maxsize=1)
def _tables() -> Tensor:
    chrominance = torch.full((8, 8), 99.0)
    chrominance[:4, :4] = torch.tensor(CHROMINANCE)
    return torch.stack([torch.tensor(LUMINANCE).T, chrominance]).double()
