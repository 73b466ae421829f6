"""The generator of ESRGAN (Wang et al. 2018) and Real-ESRGAN (Wang et al. 2021)."""

from functools import partial
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.nets import dense_block
from sr.nets.cpu import dense
from sr.nets.layers import Count, conv3, conv_on, small_conv3, upsampling_factors, without_autocast
from sr.nets.strips import in_strips


def _lrelu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, dense.SLOPE, inplace=True)


def _joined(*features: Tensor) -> Tensor:
    return torch.cat(features, 1)


class ResidualDenseBlock(nn.Module):
    """Five convolutions, each of which receives all previous features (ESRGAN, figure 4).

    The backward pass saves each feature once, a quarter of the memory of the concatenations.
    recompute: see `sr.nets.dense_block.block`.
    """

    recompute = True

    def __init__(self, num_feat: int, num_grow_ch: int) -> None:
        super().__init__()
        self.conv1 = small_conv3(num_feat, num_grow_ch)
        self.conv2 = small_conv3(num_feat + num_grow_ch, num_grow_ch)
        self.conv3 = small_conv3(num_feat + 2 * num_grow_ch, num_grow_ch)
        self.conv4 = small_conv3(num_feat + 3 * num_grow_ch, num_grow_ch)
        self.conv5 = small_conv3(num_feat + 4 * num_grow_ch, num_feat)

    def forward(self, x: Tensor) -> Tensor:
        convs = self.conv1, self.conv2, self.conv3, self.conv4, self.conv5
        if dense.takes(x, convs):
            return dense.block(x, convs)
        if dense_block.takes(x, convs):
            return dense_block.block(x, convs, recompute=self.recompute)
        features = [x, _lrelu(self.conv1(x))]
        for conv in (self.conv2, self.conv3, self.conv4):
            features.append(_lrelu(conv_on(conv, _joined, *features)))
        return torch.add(x, conv_on(self.conv5, _joined, *features), alpha=dense.SHARE)


def saved_by_recomputing(net: nn.Module, pixels: int, element: int) -> int:
    """Bytes that `recompute` saves in all blocks of `net`, for a batch of `pixels` and values of `element` bytes."""
    blocks = [module for module in net.modules() if isinstance(module, ResidualDenseBlock)]
    inner = [conv for block in blocks for conv in (block.conv1, block.conv2, block.conv3, block.conv4)]
    return sum(conv.in_channels for conv in inner) * pixels * element


def is_short(needed: int, free: int) -> bool:
    """Whether `recompute` is on for `train.recompute: auto`: a step takes 2.6 times these bytes in RRDBNet 64/23."""
    return 4 * needed > free


class RRDB(nn.Module):
    """Residual in residual dense block."""

    def __init__(self, num_feat: int, num_grow_ch: int) -> None:
        super().__init__()
        self.rdb1 = ResidualDenseBlock(num_feat, num_grow_ch)
        self.rdb2 = ResidualDenseBlock(num_feat, num_grow_ch)
        self.rdb3 = ResidualDenseBlock(num_feat, num_grow_ch)

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.rdb3(self.rdb2(self.rdb1(x))), alpha=0.2)


class RRDBNet(nn.Module):
    """[B, num_in_ch, h, w] -> [B, num_out_ch, h * scale, w * scale], any h and w of at least 4 pixels.

    The trunk runs at the resolution of the input. Then x4 and x8 upsample two and three times by 2, and x3 once by 3,
    by nearest neighbor. At x1 and x2 a pixel unshuffle by 4 and 2 comes first (Real-ESRGAN), so that the trunk costs
    as much as at x4; `unshuffle=False` gives the plain x1 and x2 of older ESRGAN models.
    Parameter names are those of the published Real-ESRGAN files.
    """

    def __init__(
        self,
        *,
        scale: Literal[1, 2, 3, 4, 8],
        num_in_ch: Count = 3,
        num_out_ch: Count = 3,
        num_feat: Count = 64,
        num_block: Count = 23,
        num_grow_ch: Count = 32,
        unshuffle: bool = True,
    ) -> None:
        super().__init__()
        self.scale: int = scale
        self.multiple: int = {1: 4, 2: 2}.get(scale, 1) if unshuffle else 1
        self.upsampling_factors = upsampling_factors(scale * self.multiple)
        self.conv_first = conv3(num_in_ch * self.multiple**2, num_feat)
        self.body = nn.Sequential(*(RRDB(num_feat, num_grow_ch) for _ in range(num_block)))
        self.conv_body = conv3(num_feat, num_feat)
        for n in range(len(self.upsampling_factors)):
            self.add_module(f"conv_up{n + 1}", conv3(num_feat, num_feat))
        self.conv_hr = conv3(num_feat, num_feat)
        self.conv_last = conv3(num_feat, num_out_ch)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if self.multiple > 1:
            x = F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple), mode="reflect")
            x = F.pixel_unshuffle(x, self.multiple)
        shallow = self.conv_first(x)
        features = shallow + self.conv_body(self.body(shallow))
        return in_strips(self._upsample, features, margin=4)[..., : height * self.scale, : width * self.scale]

    def _upsample(self, features: Tensor) -> Tensor:
        for n, factor in enumerate(self.upsampling_factors):
            upsample = partial(F.interpolate, scale_factor=factor, mode="nearest")
            conv = cast(nn.Conv2d, self.get_submodule(f"conv_up{n + 1}"))
            features = _lrelu(conv_on(conv, upsample, features))
        features = _lrelu(self.conv_hr(features))
        # The output is never half precision: rounding would remove the gradient of a loss that is small next to L1.
        with without_autocast(features.device):
            return self.conv_last(features.to(self.conv_last.weight.dtype))
