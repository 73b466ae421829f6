"""Structural similarity as a loss. The metric (sr.evaluate.metrics.ssim) rounds to 8 bits; the loss does not."""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sr.core.errors import UserError
from sr.images.ssim import WINDOW, ssim_maps

_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


class SSIM(nn.Module):
    """1 - SSIM, the mean over R, G and B (Wang et al. 2004, equation 13; Zhao et al. 2017 train with it).

    The window is the paper's 11 x 11 Gaussian of sigma 1.5, without padding. Raises UserError for images
    of less than 11 pixels per side.
    """

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        _require(output, scales=1, name="ssim")
        luminance, structure = ssim_maps(output.float(), target.float())
        return 1 - (luminance * structure).mean()


class MSSSIM(nn.Module):
    """1 - l_M prod_j (cs_j)^exponent_j, j from fine to coarse, by 2 x 2 means (Wang et al. 2003, equation 7).

    cs_j is the mean of contrast times structure at scale j; the luminance l_M is used at the coarsest scale only.
    exponents: one per scale. The paper's five need images of 176 pixels per side, three need 44; smaller ones raise
    UserError. A factor below 1e-4 (unrelated images at the start of training) is clamped and has no gradient.
    """

    def __init__(
        self, *, exponents: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = _EXPONENTS
    ) -> None:
        super().__init__()
        self.exponents = exponents

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        _require(output, scales=len(self.exponents), name=f"ms_ssim over {len(self.exponents)} scales")
        a, b = output.float(), target.float()
        factors = []
        for scale, exponent in enumerate(self.exponents, 1):
            luminance, structure = ssim_maps(a, b)
            coarsest = scale == len(self.exponents)
            mean = (luminance * structure if coarsest else structure).mean((-2, -1))
            factors.append(mean.clamp(min=1e-4) ** exponent)
            if not coarsest:
                a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        return 1 - torch.stack(factors).prod(0).mean()


def _require(images: Tensor, *, scales: int, name: str) -> None:
    side, needed = min(images.shape[-2:]), WINDOW * 2 ** (scales - 1)
    if side < needed:
        fewer = "" if scales == 1 else " or give fewer exponents"
        raise UserError(
            f"{name} needs images of {needed} pixels per side, but got {side}; increase data.gt_size{fewer}"
        )
