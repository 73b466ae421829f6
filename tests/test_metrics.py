"""Metrics: PSNR, SSIM and NIQE equal to basicsr's, all by hand where the answer is known."""

import math
import sys
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import pytest
import scipy.ndimage
import skimage.data
import torch
from torch.nn import functional
from torchvision.models import alexnet, vgg16

from sr.core.errors import UserError
from sr.evaluate.metrics import METRICS, better, perceptual
from sr.evaluate.metrics.psnr import psnr
from sr.evaluate.metrics.ssim import ssim
from sr.images import bicubic
from tests.helpers.tiers import slow

needs_basicsr = pytest.mark.skipif(find_spec("basicsr") is None, reason="the reference is the extra sr-train[basicsr]")
WITH_FILES = "lpips", "dists", "niqe"


def image(seed: int, height: int = 61, width: int = 47) -> torch.Tensor:
    """A smooth image with noise, 8-bit values in 0..1."""
    draws = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(0, 1, width).expand(3, height, width)
    return ((ramp + 0.1 * torch.randn(3, height, width, generator=draws)).clamp(0, 1) * 255).round() / 255


def photograph(name: str) -> torch.Tensor:
    """One of those in scikit-image, [3, h, w]."""
    return torch.from_numpy(getattr(skimage.data, name)().copy()).permute(2, 0, 1).float() / 255


def bgr(image: torch.Tensor) -> np.ndarray:
    return np.round(image.numpy().transpose(1, 2, 0)[..., ::-1] * 255).astype(np.uint8)


@needs_basicsr
@pytest.mark.parametrize("border", [0, 4])
@pytest.mark.parametrize("y", [True, False])
@pytest.mark.parametrize("kind", ["made", "photograph"])
def test_equal_to_basicsr(border, y, kind):
    from sr.nets.io.basicsr import basicsr

    reference = basicsr("metrics.psnr_ssim")
    output, target = image(1), image(2)
    if kind == "photograph":
        target = photograph("chelsea")
        output = bicubic.resize(bicubic.resize(target, scale=0.25), size=(300, 451)).clamp(0, 1)
    pair = bgr(output), bgr(target)
    expected = reference.calculate_psnr(*pair, crop_border=border, test_y_channel=y)
    assert psnr(output, target, border=border, y=y) == pytest.approx(expected, abs=1e-4)
    expected = reference.calculate_ssim(*pair, crop_border=border, test_y_channel=y)
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
    output, target = image(3), image(3)
    output[:, :4] = 0
    output[:, :, -4:] = 0
    assert psnr(output, target, border=4) == math.inf
    assert ssim(output, target, border=4) == pytest.approx(1)
    assert psnr(output, target, border=3) < 60


@pytest.mark.parametrize("name", [name for name in METRICS if name not in WITH_FILES])
def test_table(name):
    target = image(4)
    worse, nearer = image(5) ** 2, target.clone()
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
    target = image(6)
    blurred = functional.avg_pool2d(target, 3, stride=1, padding=1)
    sharpness = METRICS["sharpness"].measure
    assert sharpness(target.flip(2), target, border=0) == pytest.approx(1, abs=1e-6)
    assert sharpness(blurred, target, border=2) < 0.3
    assert better("sharpness", 0.9, 0.3)
    assert better("sharpness", 0.9, 1.3)


@pytest.mark.parametrize("name", ["psnr_y", "chroma", "lpips", "dists"])
def test_metrics_of_colour_refuse_other_images(name):
    with pytest.raises(UserError, match="for RGB, not for 4 channels"):
        METRICS[name].measure(torch.zeros(4, 40, 40), torch.zeros(4, 40, 40), border=0)


@pytest.mark.parametrize(
    ("name", "file", "package"),
    [("lpips", "alexnet-owt-7be5be79.pth", "lpips"), ("dists", "vgg16-397923af.pth", "dists-pytorch")],
)
def test_perceptual_metrics_say_what_they_lack_and_download_nothing(tmp_path, monkeypatch, name, file, package):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("a download"))
    told = METRICS[name].missing()
    assert file in told
    assert str(tmp_path / "checkpoints") in told
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / file).touch()
    monkeypatch.setattr(perceptual, "find_spec", lambda name: None)
    assert f"pip install {package}" in METRICS[name].missing()


def as_weights(tmp_path, monkeypatch, file: str, net: torch.nn.Module) -> None:
    """Random weights in place of the published ones: tests that they are used, and the protocol."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save({k: v for k, v in net.state_dict().items() if k.startswith("features")}, tmp_path / "checkpoints" / file)
    perceptual._net.cache_clear()


def check_distance(name: str) -> None:
    measure, target = METRICS[name].measure, image(7)
    assert measure(target, target, border=0) == pytest.approx(0, abs=1e-6)
    noisy = (target + 0.2 * torch.rand(target.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    blotched = target.clone()
    blotched[:, :2] = 0
    assert measure(noisy, target, border=0) > 1e-5
    assert measure(blotched, target, border=2) == pytest.approx(0, abs=1e-6)
    perceptual._net.cache_clear()


@pytest.mark.skipif(find_spec("lpips") is None, reason="the calibration is the extra sr-train[perceptual]")
def test_lpips_with_weights_at_hand(tmp_path, monkeypatch):
    torch.manual_seed(0)
    as_weights(tmp_path, monkeypatch, "alexnet-owt-7be5be79.pth", alexnet())
    assert METRICS["lpips"].missing() is None
    small = image(7)[:, :30]
    assert math.isnan(METRICS["lpips"].measure(small, small, border=0)), "AlexNet leaves nothing of it"
    check_distance("lpips")


def test_dists_with_weights_at_hand(tmp_path, monkeypatch):
    """The calibration too is made up where its package is not installed."""
    with torch.device("meta"):
        shapes = vgg16(weights=None)
    torch.manual_seed(0)
    shapes.features.to_empty(device="cpu")
    for parameter in shapes.features.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    as_weights(tmp_path, monkeypatch, "vgg16-397923af.pth", shapes)
    if find_spec("DISTS_pytorch") is None:
        package = tmp_path / "packages" / "DISTS_pytorch"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        torch.save({"alpha": torch.rand(1, 1475, 1, 1), "beta": torch.rand(1, 1475, 1, 1)}, package / "weights.pt")
        monkeypatch.syspath_prepend(str(package.parent))
    assert METRICS["dists"].missing() is None
    check_distance("dists")


# ---- NIQE ------------------------------------------------------------------------------------------------------------


@needs_basicsr
@pytest.mark.parametrize(
    ("name", "border"),
    [("astronaut", 4), ("chelsea", 0), *slow([("astronaut", 0), ("chelsea", 4), ("coffee", 0), ("coffee", 4)])],
)
def test_niqe_equal_to_basicsr(monkeypatch, name, border):
    """astronaut has flat areas, where rounding decides what counts as structure."""
    from sr.nets.io.basicsr import basicsr

    filters = ModuleType("scipy.ndimage.filters")  # where basicsr looks for it and newer scipy has it no more
    filters.convolve = scipy.ndimage.convolve
    monkeypatch.setitem(sys.modules, "scipy.ndimage.filters", filters)
    image = photograph(name)
    expected = basicsr("metrics.niqe").calculate_niqe(bgr(image), border)
    value = METRICS["niqe"].measure(image, torch.zeros_like(image), border=border)
    assert value == pytest.approx(expected, abs=1e-3)


def test_niqe_prefers_natural_images_and_needs_room_and_structure():
    measure, photo = METRICS["niqe"].measure, photograph("chelsea")
    noisy = (photo + 0.2 * torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    assert measure(photo, photo, border=0) < 4 < measure(noisy, photo, border=0)
    assert math.isnan(measure(photo[:, :191, :100], photo, border=0)), "one block"
    assert math.isnan(measure(torch.full((3, 200, 200), 0.3), photo, border=0)), "flat"
