"""PSNR and SSIM: equal to basicsr's, and by hand where the answer is known."""

import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from sr.metrics import METRICS
from sr.metrics.psnr import psnr
from sr.metrics.ssim import ssim


def picture(seed: int, height: int = 61, width: int = 47) -> torch.Tensor:
    """A smooth picture with noise, 8-bit values in 0..1."""
    draws = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(0, 1, width).expand(3, height, width)
    return ((ramp + 0.1 * torch.randn(3, height, width, generator=draws)).clamp(0, 1) * 255).round() / 255


@pytest.mark.skipif(find_spec("basicsr") is None, reason="the reference is the extra sr[basicsr]")
@pytest.mark.parametrize("border", [0, 4])
@pytest.mark.parametrize("y", [True, False])
def test_equal_to_basicsr(border, y):
    from sr.nets.basicsr import basicsr

    reference = basicsr("metrics.psnr_ssim")
    output, target = picture(1), picture(2)
    bgr = [np.round(x.numpy().transpose(1, 2, 0)[..., ::-1] * 255).astype(np.uint8) for x in (output, target)]
    expected = reference.calculate_psnr(*bgr, crop_border=border, test_y_channel=y)
    assert psnr(output, target, border=border, y=y) == pytest.approx(expected, abs=1e-4)
    expected = reference.calculate_ssim(*bgr, crop_border=border, test_y_channel=y)
    assert ssim(output, target, border=border, y=y) == pytest.approx(expected, abs=1e-6)


def test_psnr_by_hand():
    target = torch.full((3, 20, 20), 100 / 255)
    assert psnr(target + 5 / 255, target, border=0, y=False) == pytest.approx(20 * math.log10(255 / 5))
    luma_step = 5 * 219 / 255
    assert psnr(target + 5 / 255, target, border=0) == pytest.approx(20 * math.log10(255 / luma_step))


def test_values_are_rounded_and_clipped_first():
    target = torch.full((3, 20, 20), 1.0)
    assert psnr(target + 0.3, target, border=0) == math.inf
    assert psnr(target - 0.4 / 255, target, border=0) == math.inf


def test_border_is_left_out():
    output, target = picture(3), picture(3)
    output[:, :4] = 0
    output[:, :, -4:] = 0
    assert psnr(output, target, border=4) == math.inf
    assert ssim(output, target, border=4) == pytest.approx(1)
    assert psnr(output, target, border=3) < 60


@pytest.mark.parametrize("name", METRICS)
def test_table(name):
    worse, better, target = picture(5), picture(4) * 0.9, picture(4)
    metric = METRICS[name]
    assert metric(worse, target, border=4) < metric(better, target, border=4)
