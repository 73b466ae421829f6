"""Discriminators at several scales (Wang et al. 2018, pix2pixHD, section 3.2)."""

from collections.abc import Callable
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sr.config.registry import PartOf


class MultiScale(nn.Module):
    """[B, num_in_ch, h, w] -> the logit maps of `num_scales` discriminators, the full size first.

    Each discriminator has separate weights and receives images half as large as the previous one, by average pooling
    (3x3, stride 2). The smallest image must be large enough for `of`.
    """

    def __init__(
        self,
        *,
        of: Annotated[Callable[[], nn.Module], PartOf("discriminators", factory=True)],
        num_scales: Annotated[int, Field(ge=1, le=6)] = 3,
    ) -> None:
        super().__init__()
        self.scales = nn.ModuleList(of() for _ in range(num_scales))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for number, discriminator in enumerate(self.scales):
            if number:
                x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
            maps += discriminator(x)
        return maps
