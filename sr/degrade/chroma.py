"""Chroma subsampling, as in video and JPEG, without the rest of the codec."""

from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor
from torch.nn import functional

from sr.config.ranges import some_share
from sr.degrade.draws import Draw
from sr.degrade.stage import NotNegative, Prob, RandomStage

Layout = Literal["4:2:2", "4:2:0", "4:1:1", "4:1:0"]
Upsampling = Literal["nearest", "bilinear", "bicubic"]
FACTORS: dict[Layout, tuple[int, int]] = {"4:2:2": (1, 2), "4:2:0": (2, 2), "4:1:1": (1, 4), "4:1:0": (4, 4)}
LAYOUTS: dict[Layout, float] = {"4:2:0": 0.7, "4:2:2": 0.15, "4:1:1": 0.15}
UPSAMPLINGS: list[Upsampling] = ["nearest", "bilinear", "bicubic"]
# ITU-R BT.601 and BT.709: luma weights of red and blue.
MATRICES = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}


class Chroma(RandomStage):
    """Store color at a lower resolution than brightness, and interpolate it back. Grey images stay as they are.

    Chroma is averaged over blocks of 1 x 2 (4:2:2), 2 x 2 (4:2:0), 1 x 4 (4:1:1) or 4 x 4 pixels (4:1:0).

    Args:
        layouts: relative frequencies of the layouts.
        upsampling: how chroma is enlarged, chosen uniformly.
        matrices: the luma, that of SD video and JPEG (bt601) or of HD video (bt709), chosen uniformly.
    """

    def __init__(
        self,
        *,
        prob: Prob = 1.0,
        layouts: Annotated[dict[Layout, NotNegative], AfterValidator(some_share)] = LAYOUTS,
        upsampling: Annotated[list[Upsampling], Field(min_length=1)] = UPSAMPLINGS,
        matrices: Annotated[list[Literal["bt601", "bt709"]], Field(min_length=1)] = ["bt601", "bt709"],  # noqa: B006
    ) -> None:
        super().__init__(prob)
        self.layouts, self.upsampling, self.matrices = layouts, upsampling, matrices

    def apply(self, images: list[Tensor], draws: list[Draw]) -> list[Tensor]:
        return [self._subsampled(image, draw) for image, draw in zip(images, draws, strict=True)]

    def _subsampled(self, image: Tensor, draw: Draw) -> Tensor:
        down, across = FACTORS[draw.pick(list(self.layouts), list(self.layouts.values()))]
        mode, (red, blue) = draw.pick(self.upsampling), MATRICES[draw.pick(self.matrices)]
        if image.shape[0] == 1:
            return image
        height, width = image.shape[-2:]
        r, g, b = image
        luma = red * r + blue * b + (1 - red - blue) * g
        chroma = torch.stack([r - luma, b - luma])[None]
        padded = functional.pad(chroma, (0, -width % across, 0, -height % down), mode="replicate")
        small = functional.avg_pool2d(padded, (down, across))
        made = functional.interpolate(small, size=padded.shape[-2:], mode=mode)[0, :, :height, :width]
        r, b = luma + made[0], luma + made[1]
        return torch.stack([r, (luma - red * r - blue * b) / (1 - red - blue), b]).clamp_(0, 1)
