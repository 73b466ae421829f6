"""How far a net looks, and tiles that follow from it: tiled equals whole for every net of the table."""

import importlib.util
from typing import Any

import pytest
import torch
from tiles_table import NETS, model_of
from torch import Tensor, nn

from sr.inference.predictor import Predictor
from sr.inference.receptive_field import BOUND, measured_reach, probe
from sr.nets import GENERATORS
from sr.nets.io.load import Model


def test_every_net_is_here():
    kinds = {"basicsr.*" if name.startswith("basicsr.") else name.split()[0] for name in NETS}
    assert kinds == set(GENERATORS) - {"spandrel"}  # which is the nets of others, out of files


def difference(model: Model, image: Tensor, **how: Any) -> float:
    made = Predictor(model, **how)([image])[0]
    with torch.no_grad():
        whole = model.net(image[None])[0].clamp(0, 1)
    assert made.shape == whole.shape
    return (made - whole).abs().max().item() * 255


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("tile", [None, 96])
def test_tiled_equals_whole(name, tile):
    """Edges and corners included, with an overlap that nobody chose; nets that see the whole get the whole."""
    if name.startswith("basicsr") and importlib.util.find_spec("basicsr") is None:
        pytest.skip("basicsr is an extra")
    model = model_of(name)
    image = probe(260, 3)[0, :, :, :67]
    said: list[str] = []
    change = difference(model, image, say=said.append, tile=tile)
    if tile is not None and said:  # asked for tiles, such a net makes another image
        assert "looks at all of an image" in said[0]
        assert name.startswith(("rcan", "unet", "resnet"))
    else:
        assert change < 1


def fail(sentence: str) -> None:
    raise AssertionError(sentence)


@pytest.mark.parametrize("radius", [0, 3, 14, 25])
def test_the_reach_of_a_known_kernel(radius):
    net = nn.Conv2d(1, 1, 2 * radius + 1, padding=radius, bias=False)
    nn.init.constant_(net.weight, 1 / (2 * radius + 1) ** 2)
    with torch.no_grad():
        found = measured_reach(net, channels=1, scale=1)
    assert found.pixels is not None
    assert radius * 0.9 <= found.pixels <= radius
    assert found.beyond <= BOUND


class Dimmed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean()


def test_a_net_that_sees_the_whole():
    found = measured_reach(Dimmed(), channels=3, scale=1)
    assert found.pixels is None
    assert found.beyond > BOUND
    model = Model(Dimmed(), 1, 1, "dimmed")
    assert difference(model, probe(300, 3)[0], say=fail) == 0


def test_a_gate_that_opens_in_the_light():
    """Channel attention that is shut at the mean of most images."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.AdaptiveAvgPool2d(1)

        def forward(self, x: Tensor) -> Tensor:
            return x + (self.pool(x) - 0.8).relu()

    assert Predictor(Model(Gated(), 1, 1, "gated")).reach.pixels is None


def test_a_net_of_large_sides_is_not_run():
    assert measured_reach(fail, channels=3, scale=1, multiple=256).pixels is None


def test_tiles_of_a_network_with_global_receptive_field_warn():
    said: list[str] = []
    run = Predictor(Model(Dimmed(), 1, 1, "dimmed"), tile=48, say=said.append)
    image = probe(96, 3)[0]
    for _ in range(2):
        run([image])
    assert len(said) == 1
    assert "differ from the whole, in a trial by up to" in said[0]
