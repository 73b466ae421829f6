"""CIE L*a*b*: scikit-image's numbers, in tensors and arrays, and the codes that images travel as."""

import numpy as np
import pytest
import torch
from skimage.color import lab2rgb, rgb2lab

from sr.images.color import colorized, lab_codes, lab_to_rgb, lightness, rgb_to_lab

PIXELS = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
CUBE = np.stack(np.meshgrid(*[np.arange(0, 256, 5, dtype=np.uint8)] * 3), -1).reshape(52, -1, 3)


def planes(pixels, dtype=torch.float32):
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy()).to(dtype) / 255


@pytest.mark.parametrize("pixels", [PIXELS, CUBE])
def test_conversion_matches_scikit_image_in_both_directions(pixels):
    rgb = planes(pixels, torch.float64)
    lab = rgb_to_lab(rgb)
    assert np.abs(lab.permute(1, 2, 0).numpy() - rgb2lab(pixels)).max() < 1e-9
    assert (lab_to_rgb(lab) - rgb).abs().max() < 1e-5
    assert (lab_to_rgb(rgb_to_lab(rgb.float())) - rgb).abs().max() < 1e-4


@pytest.mark.filterwarnings("ignore:Conversion from CIE-LAB")
def test_colors_outside_of_srgb_are_clipped_as_in_scikit_image():
    lab = np.random.default_rng(1).uniform((0, -110, -110), (100, 110, 110), (40, 40, 3))
    assert np.abs(lab_to_rgb(lab.transpose(2, 0, 1)).transpose(1, 2, 0) - lab2rgb(lab)).max() < 1e-9


def test_arrays_and_batches_are_converted_like_tensors():
    rgb = planes(PIXELS)
    assert np.abs(rgb_to_lab(rgb.numpy()) - rgb_to_lab(rgb).numpy()).max() < 1e-3
    batch = torch.stack([rgb, rgb.flip(2)])
    assert (rgb_to_lab(batch)[1] - rgb_to_lab(rgb.flip(2))).abs().max() < 1e-3
    assert (lab_to_rgb(rgb_to_lab(batch))[0] - rgb).abs().max() < 1e-4


@pytest.mark.parametrize("pixels", [PIXELS, CUBE])
def test_codes_represent_srgb_to_half_a_step(pixels):
    codes, lab = lab_codes(pixels), rgb2lab(pixels)
    assert codes.dtype == np.uint8
    assert codes.shape == pixels.shape
    assert np.abs(codes[..., 0] / 2.55 - lab[..., 0]).max() <= 100 / 255 / 2 + 1e-3
    assert np.abs((codes[..., 1:] / 127.5 - 1) * 110 - lab[..., 1:]).max() <= 110 / 255 + 1e-3


def test_input_and_target_of_colorization_recombine_to_the_image():
    rgb = planes(PIXELS)
    lab = rgb_to_lab(rgb)
    assert torch.equal(lightness(rgb), lab[:1] / 100)
    assert lightness(torch.stack([rgb, rgb])).shape == (2, 1, 33, 47)
    assert (colorized(lightness(rgb), (lab[1:] / 110 + 1) / 2) - rgb).abs().max() < 1e-4
    codes = planes(lab_codes(PIXELS))
    assert (colorized(codes[:1], codes[1:]) - rgb).abs().mean() * 255 < 1
    grey = colorized(lightness(rgb), torch.full((2, 33, 47), 0.5))
    assert (grey - grey.mean(0)).abs().max() < 1e-3


def test_lab_to_rgb_has_finite_gradients_at_black_and_white():
    for value in (0.0, 1.0):
        codes = torch.tensor([value, 0.5, 0.5]).reshape(3, 1, 1).requires_grad_()
        colorized(codes[:1], codes[1:]).sum().backward()
        assert codes.grad.isfinite().all()
        rgb = torch.full((3, 1, 1), value, requires_grad=True)
        rgb_to_lab(rgb).sum().backward()
        assert rgb.grad.isfinite().all()
