"""Losses on structure, frequency, edges and colour, and priors: their values, by reference or by formula."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from sr.data.batch import Batch
from sr.losses.colour import Colour
from sr.losses.edges import Edge, Gradient
from sr.losses.frequency import FFT, FocalFrequency
from sr.losses.ldl import LDL
from sr.losses.structure import MSSSIM, SSIM
from sr.losses.variation import TV
from sr.nets.io.basicsr import basicsr

needs_basicsr = pytest.mark.skipif(find_spec("basicsr") is None, reason="basicsr, the reference, is an extra")


def images(height: int = 40, width: int = 47) -> tuple[Tensor, Tensor]:
    """A target with smooth and busy places, and an output that is off by noise."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 5, 6, generator=random)
    target = F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return (target + 0.1 * torch.randn(target.shape, generator=random)).clamp(0, 1), target


@needs_basicsr
def test_ssim_equals_basicsr() -> None:
    output, target = images()
    reference = 1 - basicsr("metrics.psnr_ssim").calculate_ssim_pt(output, target, crop_border=0).mean()
    assert SSIM()(output, target).item() == pytest.approx(reference.item(), abs=1e-6)


def test_ms_ssim_equals_its_formula() -> None:
    output, target = images(176, 181)
    exponents = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    values = []
    for a, b in zip(output.flatten(0, 1).double().numpy(), target.flatten(0, 1).double().numpy(), strict=True):
        product = 1.0
        for scale, exponent in enumerate(exponents):
            luminance, structure = reference_maps(a, b)
            product *= (luminance * structure if scale == 4 else structure).mean() ** exponent
            a, b = halved(a), halved(b)
        values.append(product)
    assert MSSSIM()(output, target).item() == pytest.approx(1 - np.mean(values), abs=1e-6)


def halved(x: np.ndarray) -> np.ndarray:
    height, width = (side // 2 * 2 for side in x.shape)
    return x[:height, :width].reshape(height // 2, 2, width // 2, 2).mean((1, 3))


def reference_maps(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    def mean(x: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(x, 1.5, truncate=5 / 1.5)[5:-5, 5:-5]

    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean(a) * mean(b) + c1) / (mean(a) ** 2 + mean(b) ** 2 + c1)
    variances = mean(a * a) - mean(a) ** 2 + mean(b * b) - mean(b) ** 2
    return luminance, (2 * (mean(a * b) - mean(a) * mean(b)) + c2) / (variances + c2)


@needs_basicsr
def test_anisotropic_tv_equals_basicsr() -> None:
    output, target = images()
    assert torch.allclose(TV()(output, target), basicsr("losses.basic_loss").WeightedTVLoss()(output), rtol=1e-6)


def test_isotropic_tv_measures_a_slope_alike_at_any_angle() -> None:
    rows, columns = torch.meshgrid(torch.arange(20.0), torch.arange(20.0), indexing="ij")
    for angle in (0.0, 0.5, 1.2):
        slope = 0.01 * (columns * np.cos(angle) + rows * np.sin(angle))
        assert TV(kind="isotropic")(slope.expand(1, 3, 20, 20), slope).item() == pytest.approx(0.01, rel=1e-3)


def test_fft_equals_its_formula() -> None:
    output, target = (x.double().numpy() for x in images())
    window = np.outer(*(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n) for n in output.shape[-2:]))
    o, t = (np.fft.rfft2(x * window, norm="ortho") for x in (output, target))
    turn = np.abs(np.angle(o) - np.angle(t))
    turn = np.minimum(turn, 2 * np.pi - turn) * (np.minimum(abs(o), abs(t)) >= 1e-3)
    amplitude, phase = np.abs(abs(o) - abs(t)).mean(), turn.mean()
    for weights in ((1.0, 0.0), (0.0, 1.0), (0.5, 0.5)):
        got = FFT(amplitude=weights[0], phase=weights[1])(*images()).item()
        assert got == pytest.approx(weights[0] * amplitude + weights[1] * phase, rel=1e-3)


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_focal_frequency_equals_its_formula(alpha: float) -> None:
    output, target = (x.double().numpy() for x in images())
    distance = np.abs(np.fft.fft2(output, norm="ortho") - np.fft.fft2(target, norm="ortho"))
    weight = distance**alpha / (distance**alpha).max((-2, -1), keepdims=True)
    assert FocalFrequency(alpha=alpha)(*images()).item() == pytest.approx((weight * distance**2).mean(), rel=1e-5)


def test_focal_frequency_without_focus_is_l2() -> None:
    output, target = images()
    assert torch.allclose(FocalFrequency(alpha=0)(output, target), F.mse_loss(output, target))


def test_gradient_and_edge_equal_sobel() -> None:
    output, target = images()
    (o_x, o_y), (t_x, t_y) = reference_slopes(output), reference_slopes(target)
    assert Gradient()(output, target).item() == pytest.approx(abs(o_x - t_x).mean() + abs(o_y - t_y).mean(), rel=1e-5)
    strength = np.hypot(o_x, o_y) - np.hypot(t_x, t_y)
    assert Edge()(output, target).item() == pytest.approx(abs(strength).mean(), rel=1e-4)


def reference_slopes(images: Tensor) -> np.ndarray:
    """Sobel / 8 of each channel, horizontal and vertical, where the kernel fits."""
    channels = images.double().flatten(0, 1).numpy()
    return np.array([[ndimage.sobel(c, axis)[1:-1, 1:-1] / 8 for c in channels] for axis in (1, 0)])


def test_edge_is_blind_to_the_sign_that_gradient_sees() -> None:
    _, target = images()
    assert Edge()(1 - target, target) < 1e-6
    assert Gradient()(1 - target, target) > 1e-2


def test_colour_equals_the_difference_of_blurred_images() -> None:
    output, target = images()
    a, b = (
        ndimage.gaussian_filter(x.double().numpy(), (0, 0, 3, 3), mode="nearest", truncate=3) for x in (output, target)
    )
    assert Colour()(output, target).item() == pytest.approx(abs(a - b).mean(), rel=1e-4)


def test_colour_sees_a_cast_and_not_detail() -> None:
    _, target = images()
    rows, columns = torch.arange(40)[:, None], torch.arange(47)
    checks = 0.1 * (1 - 2 * ((rows + columns) % 2))
    assert Colour()(target + 0.1, target).item() == pytest.approx(0.1, rel=1e-4)
    assert Colour()(target + checks, target) < 1e-3


@needs_basicsr
def test_ldl_equals_basicsr() -> None:
    output, target = images()
    average = (target + 0.08 * torch.randn(target.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    weight = basicsr("losses.loss_util").get_refined_artifact_map(target, output, average, 7)
    wanted = F.l1_loss(weight * output, weight * target)
    got = LDL().compare(output, batch=Batch(target, target, target), average=lambda lq: average)
    assert 0 < (weight == 0).float().mean() < 1
    assert torch.allclose(got, wanted, atol=0, rtol=1e-5)


def test_ldl_spares_what_the_moving_average_gets_no_better() -> None:
    output, target = images()
    batch = Batch(lq=torch.zeros(2, 3, 10, 10), gt=torch.zeros_like(target), target=target)
    assert LDL().compare(output, batch=batch, average=lambda lq: 1 - target) < LDL().compare(
        output, batch=batch, average=lambda lq: target
    )
    worse = 2 * output - target
    assert LDL().compare(output, batch=batch, average=lambda lq: worse) == 0
