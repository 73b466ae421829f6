"""Tiled equals whole: for every size, phase and batch, edges and corners included."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.errors import UserError
from sr.nets.rrdbnet import RRDBNet
from sr.tiles import tiled


def nearest(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


@pytest.mark.parametrize(("height", "width"), [(1, 1), (16, 16), (17, 16), (16, 40), (41, 67), (100, 5)])
@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("batch", [1, 3])
def test_pointwise_net_is_exact(height, width, multiple, batch):
    lq = torch.rand(1, 3, height, width)
    output = tiled(nearest, lq, scale=2, tile=16, overlap=6, multiple=multiple, batch=batch)
    torch.testing.assert_close(output, nearest(lq), atol=1e-6, rtol=0)


@pytest.mark.parametrize("overlap", [0, 1, 5, 8])
def test_first_and_last_rows_are_not_faded(overlap):
    flat = torch.full((1, 3, 45, 33), 0.8)
    output = tiled(nearest, flat, scale=2, tile=16, overlap=overlap)
    torch.testing.assert_close(output, torch.full_like(output, 0.8), atol=1e-6, rtol=0)


def test_a_net_of_known_reach_is_exact_when_the_overlap_covers_it():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 7, padding=3), nn.ReLU(), nn.Conv2d(8, 3, 7, padding=3))  # reaches 6 pixels
    lq = torch.rand(1, 3, 70, 55)
    whole = net(lq).detach()
    torch.testing.assert_close(tiled(net, lq, scale=1, tile=40, overlap=16), whole, atol=1e-5, rtol=0)
    assert (tiled(net, lq, scale=1, tile=40, overlap=4) - whole).abs().max() > 1e-3, "the test could not fail"


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_rrdb_within_one_eight_bit_step(scale):
    torch.manual_seed(0)
    net = RRDBNet(scale=scale, num_feat=16, num_block=2, num_grow_ch=8).eval()
    lq = torch.rand(1, 3, 75, 62)
    output = tiled(net, lq, scale=scale, tile=48, overlap=24, multiple=net.multiple)
    with torch.no_grad():
        whole = net(lq)
    assert (output - whole).abs().max() < 0.1 / 255


def test_all_tiles_have_one_size_and_start_in_phase():
    seen: list[tuple[int, ...]] = []

    def net(x: Tensor) -> Tensor:
        seen.append(tuple(x.shape))
        assert not (x[0, :, 0, 0] % 4).any()
        return x

    rows, columns = torch.meshgrid(torch.arange(50.0), torch.arange(75.0), indexing="ij")
    tiled(net, torch.stack([rows, columns, rows])[None], scale=1, tile=22, overlap=5, multiple=4)
    assert set(seen) == {(1, 3, 24, 24)}


def test_whole_and_progress():
    steps: list[tuple[int, int]] = []
    lq = torch.rand(1, 3, 30, 20)
    tiled(nearest, lq, scale=2, tile=0, overlap=32, on_tiles=lambda *s: steps.append(s))
    assert steps == [(1, 1)]
    steps.clear()
    tiled(nearest, lq, scale=2, tile=16, overlap=4, batch=2, on_tiles=lambda *s: steps.append(s))
    assert steps == [(2, 6), (4, 6), (6, 6)]


def test_overlap_beyond_half_a_tile():
    with pytest.raises(UserError, match="give 0 to 8"):
        tiled(nearest, torch.rand(1, 3, 64, 64), scale=2, tile=16, overlap=9)
