"""The compact generator of Real-ESRGAN's small models (realesr-general-x4v3, realesr-animevideov3)."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from sr.nets.layers import Count, conv3

Activation = Literal["prelu", "relu", "leakyrelu"]


def _activation(kind: Activation, num_feat: int) -> nn.Module:
    if kind == "prelu":
        return nn.PReLU(num_feat)
    return nn.ReLU(inplace=True) if kind == "relu" else nn.LeakyReLU(0.1, inplace=True)


class Compact(nn.Module):
    """SRVGGNetCompact: convolutions and one pixel shuffle predict the residual of nearest-neighbor upscaling.

    [B, 3, h, w] -> [B, 3, h * scale, w * scale], any h and w. Parameter names are those of the published files;
    num_conv is 16 in realesr-animevideov3 and 32 in realesr-general-x4v3.
    """

    def __init__(
        self,
        *,
        scale: Literal[1, 2, 3, 4, 8],
        num_feat: Count = 64,
        num_conv: Count = 16,
        act_type: Activation = "prelu",
    ) -> None:
        super().__init__()
        self.scale: int = scale
        self.multiple = 1
        self.body = nn.Sequential(conv3(3, num_feat), _activation(act_type, num_feat))
        for _ in range(num_conv):
            self.body.extend([conv3(num_feat, num_feat), _activation(act_type, num_feat)])
        self.body.append(conv3(num_feat, 3 * scale**2))

    def forward(self, x: Tensor) -> Tensor:
        base = F.interpolate(x, scale_factor=self.scale, mode="nearest")
        return base + F.pixel_shuffle(self.body(x), self.scale)
