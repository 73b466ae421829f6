"""The discriminators of pix2pix and CycleGAN (Isola et al. 2017, section 3.2.2 and appendix 6.1.2)."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from sr.nets.layers import Count
from sr.nets.norm import InstanceNorm, keep_statistics
from sr.nets.spectral import SpectralConv2d
from sr.nets.translation import initialise

Norm = Literal["batch", "instance", "spectral", "none"]


class PatchGAN(nn.Module):
    """[B, num_in_ch, h, w] -> [logits [B, 1, h', w']]: one logit per patch.

    num_layers: number of convolutions with stride 2, which sets the patch size: 0 = 1x1 (a pixel), 1 = 16x16,
    2 = 34x34, 3 = 70x70, 5 = 286x286. h and w are at least 2^(num_layers + 2). norm: applied after every convolution
    except the first and the last; `spectral` instead normalizes the kernel of every convolution. Weights are
    initialized from N(0, 0.02) as published. Parameter names are those of the published `latest_net_D.pth`.
    """

    def __init__(
        self,
        *,
        num_in_ch: Count = 3,
        num_feat: Count = 64,
        num_layers: Annotated[int, Field(ge=0, le=6)] = 3,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        widths = [num_feat * min(2**i, 8) for i in range(max(num_layers, 1) + 1)]
        strides = [2] * num_layers + [1, 1] if num_layers else [1, 1, 1]
        kernel = 4 if num_layers else 1
        inner_bias = norm in ("instance", "spectral")

        layers = [_conv(norm, num_in_ch, widths[0], kernel, strides[0], bias=True), nn.LeakyReLU(0.2, inplace=True)]
        for width, after, stride in zip(widths, widths[1:], strides[1:], strict=False):
            layers += [_conv(norm, width, after, kernel, stride, bias=inner_bias), _norm(norm, after)]
            layers += [nn.LeakyReLU(0.2, inplace=True)]
        layers += [_conv(norm, widths[-1], 1, kernel, 1, bias=inner_bias or num_layers > 0)]
        self.name = "model" if num_layers else "net"
        self.add_module(self.name, nn.Sequential(*layers))
        initialise(self)
        keep_statistics(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.get_submodule(self.name)(x)]


def _conv(norm: Norm, in_channels: int, out_channels: int, kernel: int, stride: int, *, bias: bool) -> nn.Module:
    kind = SpectralConv2d if norm == "spectral" else nn.Conv2d
    return kind(in_channels, out_channels, kernel, stride=stride, padding=kernel // 4, bias=bias)


def _norm(norm: Norm, channels: int) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    return InstanceNorm(channels) if norm == "instance" else nn.Identity()
