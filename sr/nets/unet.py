"""The generator of pix2pix (Isola et al. 2017, section 3.2.1 and appendix 6.1.1)."""

from collections import OrderedDict
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sr.nets.layers import Count
from sr.nets.translation import Dropout, LastConvTranspose2d, Norm, TestTime, Translator, norm_layer


class Skip(nn.Module):
    """[B, c, h, w] -> [B, 2c, h, w]: the input concatenated with the output of `layers`.

    The first of `layers` is an in-place activation, so both halves are rectified; the ReLU that follows would have
    the same effect.
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.model(x)], 1)


class UNet(Translator):
    """[B, num_in_ch, h, w] -> [B, num_out_ch, h, w]: downsamples the image `num_downs` times by 2, then upsamples it.

    In training h and w are multiples of 2^num_downs (256 for 8, the net of the paper), where the bottleneck is one
    pixel. The innermost level has no norm, because instance norm does not accept a single pixel.
    Levels are num_feat, 2, 4, then 8 num_feat wide. Dropout is 0.5 between two levels of width 8, except the innermost
    (none below num_downs 6). Parameter names are those of the published `latest_net_G.pth`. See `Translator` for the
    rest.
    """

    def __init__(
        self,
        *,
        scale: Literal[1],
        num_in_ch: Count = 3,
        num_out_ch: Count = 3,
        num_feat: Count = 64,
        num_downs: Annotated[int, Field(ge=2, le=10)] = 8,
        norm: Norm = "batch",
        dropout: bool = True,
        test_time: TestTime = "paper",
    ) -> None:
        widths = [num_feat * min(2**level, 8) for level in range(num_downs)]
        below: list[nn.Module] = []
        for outer, inner in reversed(list(pairwise(widths))):
            below = [_level(outer, inner, below, norm, dropout)]
        outermost = nn.Sequential(
            nn.Conv2d(num_in_ch, num_feat, 4, stride=2, padding=1, bias=norm == "instance"),
            *below,
            nn.ReLU(inplace=True),
            LastConvTranspose2d(2 * num_feat, num_out_ch, 4, stride=2, padding=1),
            nn.Tanh(),
        )
        model = nn.Sequential(OrderedDict(model=outermost))
        super().__init__(model, scale=scale, multiple=2**num_downs, test_time=test_time)

    @staticmethod
    def parameters_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the arguments that a published file implies. Raises KeyError or ValueError for other networks.

        Dropout has no parameters. It is assumed with batch norm, as in the presets of the original: pix2pix has both,
        CycleGAN neither.
        """
        num_feat, num_in_ch = state["model.model.0.weight"].shape[:2]
        norm = "instance" if "model.model.0.bias" in state else "batch"
        return {
            "scale": 1,
            "num_in_ch": num_in_ch,
            "num_out_ch": state["model.model.3.weight"].shape[1],
            "num_feat": num_feat,
            "num_downs": sum(value.ndim == 4 for value in state.values()) // 2,
            "norm": norm,
            "dropout": norm == "batch",
        }


def _level(outer: int, inner: int, below: list[nn.Module], norm: Norm, dropout: bool) -> Skip:
    """Return one level except the outermost. below: the levels inside it; empty for the innermost."""
    bias = norm == "instance"
    down = [nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(outer, inner, 4, stride=2, padding=1, bias=bias)]
    if below:
        down += [norm_layer(norm, inner), *below]
    wide = 2 * inner if below else inner
    up = [nn.ReLU(inplace=True), nn.ConvTranspose2d(wide, outer, 4, stride=2, padding=1, bias=bias)]
    up += [norm_layer(norm, outer)]
    return Skip(*down, *up, *([Dropout(0.5)] if dropout and below and outer == inner else []))
