"""The generator of SRGAN (Ledig et al. 2017) without batch normalization."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from sr.nets.layers import Count, small_conv3, upsampling_factors


def _lrelu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.1, inplace=True)


class ResidualBlock(nn.Module):
    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.conv1 = small_conv3(num_feat, num_feat)
        self.conv2 = small_conv3(num_feat, num_feat)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x), inplace=True))


class SRResNet(nn.Module):
    """Modified SRResNet: residual blocks and pixel shuffles predict the residual of bilinear upscaling.

    [B, 3, h, w] -> [B, 3, h * scale, w * scale], any h and w. Parameter names are those of BasicSR's MSRResNet,
    which exists for scales 2 to 4.
    """

    def __init__(self, *, scale: Literal[1, 2, 3, 4, 8], num_feat: Count = 64, num_block: Count = 16) -> None:
        super().__init__()
        self.scale: int = scale
        self.multiple = 1
        self.upsampling_factors = upsampling_factors(scale)
        self.conv_first = small_conv3(3, num_feat)
        self.body = nn.Sequential(*(ResidualBlock(num_feat) for _ in range(num_block)))
        for n, factor in enumerate(self.upsampling_factors):
            self.add_module(f"upconv{n + 1}", small_conv3(num_feat, num_feat * factor**2))
        self.conv_hr = small_conv3(num_feat, num_feat)
        self.conv_last = small_conv3(num_feat, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(_lrelu(self.conv_first(x)))
        for n, factor in enumerate(self.upsampling_factors):
            features = _lrelu(F.pixel_shuffle(self.get_submodule(f"upconv{n + 1}")(features), factor))
        base = F.interpolate(x, scale_factor=self.scale, mode="bilinear", align_corners=False)
        return base + self.conv_last(_lrelu(self.conv_hr(features)))
