"""What every pixel and prior loss promises: float32 under autocast, gradients that are finite where images are flat."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sr.core.errors import UserError
from sr.data.batch import Batch
from sr.losses import RECONSTRUCTION
from sr.losses.colour import Colour
from sr.losses.edges import Edge, Gradient
from sr.losses.frequency import FFT, FocalFrequency
from sr.losses.ldl import LDL
from sr.losses.oklab import Oklab
from sr.losses.pixel import L1, L2, Charbonnier, Huber
from sr.losses.structure import MSSSIM, SSIM
from sr.losses.variation import TV
from sr.losses.wavelet import Wavelet
from sr.train.builder import Builder, load

LOSSES = {
    "l1": L1(),
    "l2": L2(),
    "charbonnier": Charbonnier(),
    "huber": Huber(),
    "ssim": SSIM(),
    "ms_ssim": MSSSIM(exponents=(0.3, 0.7)),
    "tv": TV(),
    "tv_isotropic": TV(kind="isotropic"),
    "fft": FFT(),
    "focal_frequency": FocalFrequency(),
    "gradient": Gradient(),
    "edge": Edge(),
    "colour": Colour(),
    "oklab": Oklab(),
    "wavelet": Wavelet(),
    "ldl": LDL(),
}
OTHERWHERE = {"vgg19", "perceptual", "style", "lpips", "dists", "distill", "contextual", "fdl"}  # have their own files


def test_no_loss_is_forgotten() -> None:
    assert {name.removesuffix("_isotropic") for name in LOSSES} | OTHERWHERE == set(RECONSTRUCTION)


every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def value(loss: nn.Module, output: Tensor, target: Tensor) -> Tensor:
    """The loss, however it is called; the moving average it may ask for gives a flat image."""
    if isinstance(loss, LDL):
        return loss.compare(output, batch=Batch(target, target, target), average=lambda lq: torch.ones_like(lq))
    return loss(output, target)


def images(height: int = 24, width: int = 30) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.rand(2, 3, height, width), torch.rand(2, 3, height, width)


@every_loss
def test_is_a_float32_scalar_whose_gradient_reaches_the_output(loss: nn.Module) -> None:
    output, target = images()
    low = output.bfloat16().requires_grad_()
    got = value(loss, low, target)
    assert got.dtype == torch.float32
    assert got.ndim == 0
    got.backward()
    assert low.grad is not None
    assert low.grad.abs().sum() > 0
    assert torch.isfinite(low.grad).all()


@every_loss
def test_autocast_rounds_nothing(loss: nn.Module) -> None:
    output, target = images()
    plain = value(loss, output, target)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(value(loss, output, target), plain)


@every_loss
def test_flat_and_equal_images_give_finite_gradients_and_no_loss(loss: nn.Module) -> None:
    for flat in (0.0, 0.4):
        output = torch.full((1, 3, 24, 24), flat, requires_grad=True)
        got = value(loss, output, output.detach().clone())
        got.backward()
        assert abs(got.item()) < 1e-5
        assert output.grad is not None
        assert torch.isfinite(output.grad).all()


@every_loss
def test_falls_on_the_way_down_its_gradient(loss: nn.Module) -> None:
    output, target = images()
    output.requires_grad_()
    before = value(loss, output, target)
    (slope,) = torch.autograd.grad(before, output)
    step = 1e-3 * slope / slope.abs().max()
    assert value(loss, output - step, target) < before


@pytest.mark.parametrize("loss", [SSIM(), MSSSIM()], ids=["ssim", "ms_ssim"])
def test_images_smaller_than_the_window_are_refused(loss: nn.Module) -> None:
    with pytest.raises(UserError, match=r"got 10; increase data\.gt_size"):
        loss(*images(10, 200))


def test_all_train_a_step_by_a_line_of_options_each(recipe: Callable[..., Path]) -> None:
    rows = [name for name in LOSSES if name != "tv_isotropic"]
    sets = [f"losses.own_{name}={{type: {name}, weight: 0.1}}" for name in rows]
    sets += ["losses.own_ms_ssim.exponents=[0.3, 0.7]", "losses.own_tv.kind=isotropic", "train.total_steps=1"]
    Builder(load(recipe(), sets)).trainer().run()
