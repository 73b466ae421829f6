"""EDSR (Lim et al. 2017), and the base class that it shares with RCAN."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sr.nets.layers import Count, conv3, upsampling_factors

Scale = Literal[1, 2, 3, 4, 8]
Mean = tuple[float, float, float]
Positive = Annotated[float, Field(gt=0)]
DIV2K_MEAN = (0.4488, 0.4371, 0.4040)


class Residual(nn.Module):
    """Convolution, residual body, convolution, then pixel shuffles. Parameter names are those of BasicSR.

    The net works on centered colors: (image - rgb_mean) * img_range.
    """

    rgb_mean: Tensor

    def __init__(self, body: nn.Sequential, *, scale: int, num_feat: int, img_range: float, rgb_mean: Mean) -> None:
        super().__init__()
        self.scale, self.multiple, self.img_range = scale, 1, img_range
        self.register_buffer("rgb_mean", torch.tensor(rgb_mean).view(1, 3, 1, 1), persistent=False)
        self.conv_first = conv3(3, num_feat)
        self.body = body
        self.conv_after_body = conv3(num_feat, num_feat)
        self.upsample = nn.Sequential()
        for factor in upsampling_factors(scale):
            self.upsample.extend([conv3(num_feat, num_feat * factor**2), nn.PixelShuffle(factor)])
        self.conv_last = conv3(num_feat, 3)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.conv_first((x - self.rgb_mean) * self.img_range)
        features = shallow + self.conv_after_body(self.body(shallow))
        return self.conv_last(self.upsample(features)) / self.img_range + self.rgb_mean


class ResidualBlock(nn.Module):
    def __init__(self, num_feat: int, res_scale: float) -> None:
        super().__init__()
        self.res_scale = res_scale
        self.conv1 = conv3(num_feat, num_feat)
        self.conv2 = conv3(num_feat, num_feat)

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.conv2(F.relu(self.conv1(x), inplace=True)), alpha=self.res_scale)


class EDSR(Residual):
    """EDSR (Lim et al. 2017). The large net of the paper has num_feat 256, num_block 32, res_scale 0.1.

    [B, 3, h, w] -> [B, 3, h * scale, w * scale], any h and w. Parameter names are those of BasicSR's EDSR.
    """

    def __init__(
        self,
        *,
        scale: Scale,
        num_feat: Count = 64,
        num_block: Count = 16,
        res_scale: Positive = 1.0,
        img_range: Positive = 255.0,
        rgb_mean: Mean = DIV2K_MEAN,
    ) -> None:
        body = nn.Sequential(*(ResidualBlock(num_feat, res_scale) for _ in range(num_block)))
        super().__init__(body, scale=scale, num_feat=num_feat, img_range=img_range, rgb_mean=rgb_mean)
