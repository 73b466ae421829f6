"""The generator of CycleGAN (Zhu et al. 2017, appendix 7.2), after Johnson et al. 2016."""

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from sr.nets.layers import Count
from sr.nets.translation import Dropout, LastConv2d, Norm, TestTime, Translator, norm_layer


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, norm: Norm, dropout: bool) -> None:
        super().__init__()
        first = [nn.ReflectionPad2d(1), _conv(channels, channels, 3, norm), norm_layer(norm, channels)]
        again = [nn.ReflectionPad2d(1), _conv(channels, channels, 3, norm), norm_layer(norm, channels)]
        between = [nn.ReLU(inplace=True), *([Dropout(0.5)] if dropout else [])]
        self.conv_block = nn.Sequential(*first, *between, *again)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class ResNet(Translator):
    """[B, num_in_ch, h, w] -> [B, num_out_ch, h, w]: residual blocks at a quarter of the size (CycleGAN).

    h and w are at least 5 pixels; in training they are multiples of 4 and at least 8. The paper uses num_block 6 at
    128 pixels and 9 at 256, instance norm and no dropout. Parameter names are those of the published
    `latest_net_G.pth`. See `Translator` for the rest.
    """

    def __init__(
        self,
        *,
        scale: Literal[1],
        num_in_ch: Count = 3,
        num_out_ch: Count = 3,
        num_feat: Count = 64,
        num_block: Count = 9,
        norm: Norm = "instance",
        dropout: bool = False,
        test_time: TestTime = "paper",
    ) -> None:
        layers = [nn.ReflectionPad2d(3), _conv(num_in_ch, num_feat, 7, norm), *_after(norm, num_feat)]
        for width in (num_feat, 2 * num_feat):
            layers += [_conv(width, 2 * width, 3, norm, stride=2, padding=1), *_after(norm, 2 * width)]
        layers += [ResidualBlock(4 * num_feat, norm, dropout) for _ in range(num_block)]
        for width in (2 * num_feat, num_feat):
            layers += [_double(2 * width, width, norm), *_after(norm, width)]
        layers += [nn.ReflectionPad2d(3), LastConv2d(num_feat, num_out_ch, 7), nn.Tanh()]
        super().__init__(nn.Sequential(*layers), scale=scale, multiple=4, test_time=test_time)

    @staticmethod
    def parameters_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the arguments that a published file implies. Raises KeyError or ValueError for other networks."""
        num_feat, num_in_ch = state["model.1.weight"].shape[:2]
        num_block = sum(key.endswith(".conv_block.1.weight") for key in state)
        return {
            "scale": 1,
            "num_in_ch": num_in_ch,
            "num_out_ch": state[f"model.{17 + num_block}.weight"].shape[0],
            "num_feat": num_feat,
            "num_block": num_block,
            "norm": "instance" if "model.1.bias" in state else "batch",
            "dropout": "model.10.conv_block.5.weight" not in state,  # else it moves the second convolution by one
        }


def _conv(in_channels: int, out_channels: int, kernel: int, norm: Norm, **sizes: int) -> nn.Module:
    return nn.Conv2d(in_channels, out_channels, kernel, **sizes, bias=norm == "instance")  # type: ignore[arg-type]


def _double(in_channels: int, out_channels: int, norm: Norm) -> nn.Module:
    bias = norm == "instance"
    return nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1, bias=bias)


def _after(norm: Norm, channels: int) -> list[nn.Module]:
    return [norm_layer(norm, channels), nn.ReLU(inplace=True)]
