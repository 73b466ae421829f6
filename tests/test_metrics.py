"""Metrics: PSNR and SSIM equal to basicsr's, all by hand where the answer is known."""

import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch.nn import functional
from torchvision.models import alexnet

from sr.errors import UserError
from sr.metrics import METRICS, better, perceptual
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


@pytest.mark.parametrize("name", [name for name in METRICS if name != "lpips"])
def test_table(name):
    target = picture(4)
    worse, nearer = picture(5) ** 2, target.clone()
    nearer[0, :, 20:] *= 0.95
    measure = METRICS[name].measure
    assert measure(target, target, border=4) == pytest.approx(METRICS[name].perfect)
    far, near = measure(worse, target, border=4), measure(nearer, target, border=4)
    assert better(name, near, far)
    assert not better(name, far, near)
    assert not better(name, near, near)
    assert not better(name, math.nan, far)


def test_l1_and_chroma_by_hand():
    grey, target = torch.full((3, 20, 20), 0.5), torch.zeros(3, 20, 20)
    target[0] = 1  # pure red: L* 53.24, a* 80.09, b* 67.20
    assert METRICS["l1"].measure(grey, target, border=0) == pytest.approx((127 + 2 * 128) / 255 / 3, abs=1e-6)
    assert METRICS["chroma"].measure(grey, target, border=0) == pytest.approx((80.09 + 67.20) / 2, abs=0.02)
    assert METRICS["chroma"].measure(grey, grey * 0.5, border=0) < 0.02


def test_sharpness_is_one_for_equal_detail_and_falls_with_blur():
    target = picture(6)
    blurred = functional.avg_pool2d(target, 3, stride=1, padding=1)
    sharpness = METRICS["sharpness"].measure
    assert sharpness(target.flip(2), target, border=0) == pytest.approx(1, abs=1e-6)
    assert sharpness(blurred, target, border=2) < 0.3
    assert better("sharpness", 0.9, 0.3)
    assert better("sharpness", 0.9, 1.3)


@pytest.mark.parametrize("name", ["psnr_y", "chroma", "lpips"])
def test_metrics_of_colour_refuse_other_pictures(name):
    with pytest.raises(UserError, match="for RGB, not for 4 channels"):
        METRICS[name].measure(torch.zeros(4, 40, 40), torch.zeros(4, 40, 40), border=0)


def test_lpips_says_what_it_lacks_and_downloads_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("a download"))
    told = METRICS["lpips"].missing()
    assert "alexnet-owt-7be5be79.pth" in told
    assert str(tmp_path / "checkpoints") in told
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth").touch()
    monkeypatch.setattr(perceptual, "find_spec", lambda name: None)
    assert "pip install lpips" in METRICS["lpips"].missing()


@pytest.mark.skipif(find_spec("lpips") is None, reason="the calibration is the extra sr[perceptual]")
def test_lpips_with_weights_at_hand(tmp_path, monkeypatch):
    """With random weights of the right shapes: what counts is that the file on disk is taken, and the protocol."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    file = tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth"
    torch.manual_seed(0)
    state = {key: value for key, value in alexnet().state_dict().items() if key.startswith("features")}
    torch.save(state, file)
    perceptual._net.cache_clear()
    assert METRICS["lpips"].missing() is None
    measure, target = METRICS["lpips"].measure, picture(7)
    assert measure(target, target, border=0) == 0
    noisy = (target + 0.2 * torch.rand(target.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    blotched = target.clone()
    blotched[:, :2] = 0
    assert measure(noisy, target, border=0) > 0
    assert measure(blotched, target, border=2) == 0
    with pytest.raises(UserError, match="31 pixels"):
        measure(target[:, :30], target[:, :30], border=0)
    perceptual._net.cache_clear()
