"""Color consistency: compare images after a low-pass filter."""

import math
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sr.images.filters import gaussian, smooth


class Colour(nn.Module):
    """mean |G * output - G * target|, G a Gaussian low-pass, which constrains color and brightness but not detail.

    The color loss of Ignatov et al. 2017 (DPED), with L1 for their squared distance.
    sigma: of the Gaussian, in pixels; detail finer than a few times sigma is ignored. Borders are replicated.
    """

    def __init__(self, *, sigma: Annotated[float, Field(gt=0)] = 3.0) -> None:
        super().__init__()
        self.reach = math.ceil(3 * sigma)
        self.taps = gaussian(sigma, self.reach)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        difference = F.pad(output.float() - target.float(), [self.reach] * 4, mode="replicate")
        return smooth(difference, self.taps).abs().mean()
