"""Transparency: no dark rims around shapes on transparent black; opaque stays opaque and clear stays clear."""

import pytest
import torch
from torch import nn

from sr.images import ImageData
from sr.inference.upscale import Upscaler, keep_extremes, pick_model
from sr.nets.io.load import Model

COLOR = torch.tensor([250, 240, 180]).view(3, 1, 1) / 255


def disc(side: int = 48, radius: float = 15) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    middle = (side - 1) / 2
    return (torch.hypot(x - middle, y - middle) < radius).float()[None]


def test_keep_extremes_spares_the_edge():
    alpha = torch.zeros(1, 8, 8)
    alpha[..., 4:] = 1
    made = keep_extremes(torch.full((1, 16, 16), 0.5), alpha)
    assert made[0, 3].tolist() == [0.0] * 6 + [0.5] * 4 + [1.0] * 6


class Darker(nn.Module):
    """Nearest neighbour x2 with a constant error, as GAN networks have on uniform areas."""

    def __init__(self, error: float) -> None:
        super().__init__()
        self.error = nn.Parameter(torch.tensor(error))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3) + self.error


@pytest.mark.parametrize("error", [-1 / 255, 1 / 255])
@pytest.mark.parametrize("outscale", [None, 3.0])
def test_opaque_and_clear_survive_a_network_with_an_error(error, outscale):
    upscaler = Upscaler(Model(Darker(error), 2, 1, "darker"), outscale=outscale, alpha="net", device="cpu")
    alpha = torch.zeros(1, 40, 40)
    alpha[..., 20:] = 1
    image = ImageData(rgb=torch.rand(3, 40, 40), alpha=alpha)
    (made,) = upscaler([image])
    side = made.alpha.shape[-1]
    assert (made.alpha[..., : side // 2 - 6] == 0).all()
    assert (made.alpha[..., side // 2 + 6 :] == 1).all()


@pytest.mark.parametrize("alpha", ["bicubic", "net"])
@pytest.mark.parametrize("outscale", [None, 2.5])
def test_no_dark_rim_around_a_shape_on_transparent_black(alpha, outscale):
    shape = disc()
    (made,) = Upscaler(pick_model("bicubic", scale=4), outscale=outscale, alpha=alpha, device="cpu")(
        [ImageData(rgb=COLOR * shape, alpha=shape)]
    )
    on_white = made.rgb * made.alpha + (1 - made.alpha)
    assert on_white.mean(0).min() * 255 > 220
