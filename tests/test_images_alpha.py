import numpy as np
import pytest
import torch

from sr.images.alpha import bleed_colors

SPRITE = torch.tensor([250.0, 240, 180])[:, None, None] / 255


@pytest.mark.parametrize("size", [(48, 48), (1, 37), (31, 1), (33, 70)])
def test_transparent_pixels_take_the_colours_around_them(size):
    y, x = np.mgrid[: size[0], : size[1]]
    inside = torch.from_numpy(np.hypot(y - size[0] // 2, x - size[1] // 2) < 9)[None]
    alpha = inside.float()
    rgb = SPRITE * alpha
    filled = bleed_colors(rgb, alpha)
    assert filled.shape == rgb.shape
    assert torch.allclose(filled, SPRITE.expand_as(filled), atol=1e-5)


def test_visible_pixels_keep_their_colours():
    rgb = torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0))
    alpha = torch.full((1, 20, 30), 1 / 255)
    alpha[:, 5:9, 5:20] = 0
    filled = bleed_colors(rgb, alpha)
    assert torch.equal(filled * (alpha > 0), rgb * (alpha > 0))
    assert not torch.equal(filled, rgb)
    assert filled.min() >= 0
    assert filled.max() <= 1


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_nothing_changes_where_all_or_no_pixels_are_visible(value):
    rgb = torch.rand(3, 8, 8)
    assert torch.equal(bleed_colors(rgb, torch.full((1, 8, 8), value)), rgb)
