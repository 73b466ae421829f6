"""Tiled equals whole: for every size, phase and batch, edges and corners included."""

import random
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.core.errors import UserError
from sr.inference.memory import USED_GPU
from sr.inference.tiling import WHOLE, Tiles, _axis, choose_tiles, computed_pixels, overlap_for, tiled, tiled_together


def nearest(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


@pytest.mark.parametrize(("height", "width"), [(1, 1), (16, 16), (17, 16), (16, 40), (41, 67), (100, 5)])
@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("together", [0, 3 * 16 * 16])
def test_pointwise_net_is_exact(height, width, multiple, together):
    lq = torch.rand(1, 3, height, width)
    output = tiled(nearest, lq, scale=2, tile=16, overlap=6, multiple=multiple, together=together)
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
    tiled(nearest, lq, scale=2, tile=16, overlap=4, together=2 * 14 * 12, on_tiles=lambda *s: steps.append(s))
    assert steps == [(2, 6), (4, 6), (6, 6)]


def test_overlap_beyond_half_a_tile():
    with pytest.raises(UserError, match="give 0 to 8"):
        tiled(nearest, torch.rand(1, 3, 64, 64), scale=2, tile=16, overlap=9)


def test_tiles_cover_overlap_and_share_for_any_numbers():
    """As few as will do, none larger than asked, each pixel's shares 1 in all."""
    draws = random.Random(0)
    for _ in range(500):
        multiple, scale = draws.choice([1, 2, 4, 8]), draws.choice([1, 2, 3])
        side = draws.randint(1, 60) * multiple
        tile = draws.randint(1, 200)
        overlap = draws.randint(0, tile // 2)
        axis = _axis(side, tile, overlap, multiple, scale)
        spans = [span.inputs for span in axis]
        lengths = {span.stop - span.start for span in spans}
        whole = -(-tile // multiple) * multiple
        assert len(lengths) == 1
        assert lengths.pop() <= min(whole, side)
        assert spans[0].start == 0
        assert spans[-1].stop == side
        assert all(span.start % multiple == 0 for span in spans)
        if overlap <= whole - multiple:  # else there is no step forward that keeps it
            assert all(before.stop - after.start >= overlap for before, after in pairwise(spans))
        total = torch.zeros(side * scale)
        for span in axis:
            torch.testing.assert_close(span.before, total[span.outputs], atol=1e-6, rtol=0)
            total[span.outputs] += span.weight
        torch.testing.assert_close(total, torch.ones_like(total), atol=1e-6, rtol=0)


# ---- tiles that are chosen -------------------------------------------------------------------------------------------


def test_chosen_tiles_fit_the_limit_and_keep_the_overlap():
    draws = random.Random(0)
    for _ in range(500):
        height, width = draws.randint(1, 3000), draws.randint(1, 3000)
        multiple, overlap = draws.choice([1, 4, 64]), draws.choice([0, 20, 250])
        limit = draws.randint(10, 10**6)
        tiles = choose_tiles(height, width, overlap=overlap, multiple=multiple, limit=limit)
        if height * width <= limit:
            assert tiles == WHOLE
            continue
        assert tiles.height * tiles.width <= max(limit, multiple**2)
        if limit >= 16 * max(overlap, multiple) ** 2:
            assert tiles.overlap == overlap


@pytest.mark.parametrize(("height", "width"), [(1080, 1920), (2160, 3840), (3000, 4000), (768, 5000), (4000, 6000)])
@pytest.mark.parametrize("reach", [15, 61, 117])  # animevideov3, x4plus_anime_6B and x4plus of Real-ESRGAN
def test_chosen_tiles_compute_less_than_a_quarter_too_many_pixels_on_8_gib(height, width, reach):
    """In half precision, for an RRDBNet 64/23, which takes 1 KiB per input pixel."""
    overlap, limit = overlap_for(reach), int(USED_GPU * 8 * 2**30) // 1024
    tiles = choose_tiles(height, width, overlap=overlap, multiple=1, limit=limit)
    assert computed_pixels(height, width, tiles) < 1.25 * height * width


def test_the_least_overlap_keeps_the_receptive_field():
    """At the ends of every cross-fade, a pixel has `reach` pixels of its tile on both sides."""
    for reach in (3, 30, 117):
        overlap = overlap_for(reach)
        for before, after in pairwise(_axis(1000, 3 * overlap + 40, overlap, 1, 1)):
            faded = torch.nonzero((before.weight > 0)[-overlap:] & (after.weight > 0)[:overlap]).flatten()
            assert faded.min() >= reach
            assert overlap - 1 - faded.max() >= reach


def test_tiles_that_differ_are_measured():
    """By the largest difference where both have weight, of an image that every tile makes differently."""
    calls: list[int] = []

    def net(x: Tensor) -> Tensor:
        calls.append(0)
        return torch.full_like(x, 0.1 * len(calls))

    images = [torch.zeros(1, 1, 40, 40), torch.zeros(1, 1, 10, 10)]
    _, seams = tiled_together(net, images, scale=1, tiles=[Tiles(24, 24, 8), WHOLE])
    assert seams == [pytest.approx(0.25, abs=0.06), 0.0]
