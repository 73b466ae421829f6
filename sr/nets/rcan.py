"""RCAN: residual groups with channel attention (Zhang et al. 2018)."""

import torch
from torch import Tensor, nn

from sr.core.errors import UserError
from sr.nets.edsr import DIV2K_MEAN, Mean, Positive, Residual, Scale
from sr.nets.layers import Count, conv3


class ChannelAttention(nn.Module):
    """Weight each channel by a function of the means of all channels (equation 7)."""

    def __init__(self, num_feat: int, squeeze_factor: int) -> None:
        super().__init__()
        squeezed = num_feat // squeeze_factor
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(num_feat, squeezed, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(squeezed, num_feat, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.attention(x)


class AttentionBlock(nn.Module):
    def __init__(self, num_feat: int, squeeze_factor: int, res_scale: float) -> None:
        super().__init__()
        self.res_scale = res_scale
        self.rcab = nn.Sequential(
            conv3(num_feat, num_feat),
            nn.ReLU(inplace=True),
            conv3(num_feat, num_feat),
            ChannelAttention(num_feat, squeeze_factor),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.rcab(x), alpha=self.res_scale)


class ResidualGroup(nn.Module):
    def __init__(self, blocks: list[AttentionBlock], num_feat: int) -> None:
        super().__init__()
        self.residual_group = nn.Sequential(*blocks)
        self.conv = conv3(num_feat, num_feat)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.residual_group(x))


class RCAN(Residual):
    """RCAN, residual groups with channel attention. The net of the paper has num_block 20.

    [B, 3, h, w] -> [B, 3, h * scale, w * scale], any h and w. Parameter names are those of BasicSR's RCAN. Channel
    attention averages over the whole image, so tiled output differs slightly. Raises UserError if squeeze_factor
    exceeds num_feat.
    """

    def __init__(
        self,
        *,
        scale: Scale,
        num_feat: Count = 64,
        num_group: Count = 10,
        num_block: Count = 16,
        squeeze_factor: Count = 16,
        res_scale: Positive = 1.0,
        img_range: Positive = 255.0,
        rgb_mean: Mean = DIV2K_MEAN,
    ) -> None:
        if squeeze_factor > num_feat:
            raise UserError(f"rcan: squeeze_factor {squeeze_factor} exceeds num_feat {num_feat}; lower it")

        def group() -> ResidualGroup:
            return ResidualGroup(
                [AttentionBlock(num_feat, squeeze_factor, res_scale) for _ in range(num_block)], num_feat
            )

        body = nn.Sequential(*(group() for _ in range(num_group)))
        super().__init__(body, scale=scale, num_feat=num_feat, img_range=img_range, rgb_mean=rgb_mean)
