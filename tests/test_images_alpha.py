"""Transparency is read from every kind of file, and transparent pixels do not bleed into edges."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from sr.images import png, read_image, read_pixels, write_image
from sr.images.alpha import bleed_colors
from tests.helpers.images import saved

SPRITE = torch.tensor([250.0, 240, 180])[:, None, None] / 255


@pytest.mark.parametrize("size", [(48, 48), (1, 37), (31, 1), (33, 70)])
def test_transparent_pixels_are_filled_with_nearby_colors(size):
    y, x = np.mgrid[: size[0], : size[1]]
    inside = torch.from_numpy(np.hypot(y - size[0] // 2, x - size[1] // 2) < 9)[None]
    alpha = inside.float()
    rgb = SPRITE * alpha
    filled = bleed_colors(rgb, alpha)
    assert filled.shape == rgb.shape
    assert torch.allclose(filled, SPRITE.expand_as(filled), atol=1e-5)


def test_visible_pixels_keep_their_colors():
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


def keyed(samples, depth, key):
    """A PNG of grey [h, w] or RGB [h, w, 3] with one transparent color, written as in the specification."""
    height, width = samples.shape[:2]
    bits = (samples.reshape(height, -1, 1) >> np.arange(depth)[::-1]) & 1
    rows = b"".join(b"\0" + np.packbits(row.reshape(-1)).tobytes() for row in bits)
    head = struct.pack(">IIBBBBB", width, height, depth, 2 if samples.ndim == 3 else 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"tRNS", struct.pack(f">{len(key)}H", *key)), (b"IDAT", zlib.compress(rows))]
    return png.SIGNATURE + png.pack([*chunks, (b"IEND", b"")])


@pytest.mark.parametrize(("channels", "depth"), [(1, 1), (1, 2), (1, 4), (1, 8), (1, 16), (3, 8), (3, 16)])
def test_the_transparent_color_of_a_png(tmp_path, channels, depth):
    rng = np.random.default_rng(depth)
    samples = rng.integers(0, 2**depth, (9, 11) if channels == 1 else (9, 11, 3))
    samples[2:4, 3:7] = key = samples[0, 0]
    samples[5, 5] = key ^ 1  # the lowest bit counts
    expected = (samples == key).reshape(9, 11, -1).all(axis=2)
    data = keyed(samples, depth, np.atleast_1d(key))
    given = read_image(data)
    assert given.gray == (channels == 1)
    assert np.array_equal(given.alpha[0] == 0, expected)
    assert np.array_equal(given.alpha[0] == 1, ~expected)
    planes = samples.reshape(9, 11, channels).transpose(2, 0, 1)
    assert np.allclose(given.rgb[:channels] * (2**depth - 1), planes, atol=1e-2)
    for suffix in ("png", "webp", "tif"):
        write_image(tmp_path / f"a.{suffix}", given, quality=100)
        assert np.array_equal(read_image(tmp_path / f"a.{suffix}").alpha[0] == 0, expected)
    assert np.array_equal(read_pixels(data, channels=4)[..., 3] == 0, expected)


@pytest.mark.parametrize("mode", ["P", "L", "1", "RGB"])
@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_transparency_by_pillow(format, mode):
    if (format, mode) == ("GIF", "RGB"):
        pytest.skip("GIF has palettes")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)).convert(mode)
    pixels = np.asarray(image)
    key = tuple(pixels[0, 0].tolist()) if mode == "RGB" else int(pixels[0, 0])
    expected = (pixels == pixels[0, 0]).reshape(9, 11, -1).all(axis=2)
    given = read_image(saved(image, format=format, transparency=key))
    assert np.array_equal(given.alpha[0] == 0, expected)


def test_partly_transparent_palettes():
    indices = np.arange(99, dtype=np.uint8).reshape(9, 11) % 4
    image = Image.fromarray(indices, "P")
    image.putpalette(list(range(12)))
    given = read_image(saved(image, format="PNG", transparency=bytes([0, 85, 170, 255])))
    assert np.array_equal((given.alpha[0] * 255).round(), indices * 85)
