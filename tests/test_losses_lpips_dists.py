"""LPIPS and DISTS against their equations and, where it is installed, the lpips package; no weights are downloaded."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sr.core.errors import UserError
from sr.losses import calibration
from sr.losses.dists import DISTS
from sr.losses.lpips import LPIPS
from tests.helpers.tiers import slow

needs_lpips = pytest.mark.skipif(find_spec("lpips") is None, reason="lpips, the reference, is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")

CHANNELS = {"vgg": (64, 128, 256, 512, 512), "alex": (64, 192, 384, 256, 256)}


@pytest.fixture
def images():
    torch.manual_seed(0)
    target = torch.rand(2, 3, 40, 48)
    return (target + 0.2 * torch.rand_like(target)).requires_grad_(), target


@pytest.fixture
def linear(tmp_path):
    """A calibration file of LPIPS for vgg."""
    state = {f"lin{n}.model.1.weight": torch.rand(1, size, 1, 1) for n, size in enumerate(CHANNELS["vgg"])}
    torch.save(state, tmp_path / "vgg.pth")
    return str(tmp_path / "vgg.pth")


@pytest.fixture
def scores(tmp_path):
    """A calibration file of DISTS."""
    torch.save({name: torch.rand(1, 1475, 1, 1) for name in ("alpha", "beta")}, tmp_path / "weights.pt")
    return str(tmp_path / "weights.pt")


@needs_lpips
@pytest.mark.parametrize("net", ["alex", "squeeze", *slow(["vgg"])])
def test_lpips_equals_its_authors(net, images, monkeypatch):
    import lpips

    ours = LPIPS(net=net, weights="random")
    for name in ("kaiming_normal_", "kaiming_uniform_", "normal_"):  # seconds for values that are replaced
        monkeypatch.setattr(nn.init, name, lambda values, *args, **kwargs: values)
    reference = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    values = ours.backbone.network.state_dict().values()
    reference.net.load_state_dict(dict(zip(reference.net.state_dict(), values, strict=True)))
    got, wanted = ours(*images), reference(*images, normalize=True).mean()
    assert torch.allclose(got, wanted, rtol=1e-5)
    gradient, expected = (torch.autograd.grad(loss, images[0])[0] for loss in (got, wanted))
    assert F.cosine_similarity(gradient.flatten(), expected.flatten(), dim=0) > 1 - 1e-5


def test_lpips_is_its_equation(images, linear):
    loss = LPIPS(weights="random", calibration=linear)
    weights = list(torch.load(linear, weights_only=True).values())
    value = 0.0
    for weight, got, wanted in zip(weights, *(loss.backbone(x).values() for x in images), strict=True):
        unit = [x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) for x in (got, wanted)]
        value += (weight * (unit[0] - unit[1]).square()).sum(1).mean()
    assert torch.allclose(loss(*images), value, rtol=1e-5)


def test_dists_is_its_equations(images, scores):
    loss = DISTS(weights="random", calibration=scores)
    alpha, beta = (values.flatten().tolist() for values in torch.load(scores, weights_only=True).values())
    total, place, value = sum(alpha) + sum(beta), 0, 0.0
    for x, y in zip(*(stages(loss, images_of) for images_of in images), strict=True):
        for channel in range(x.shape[1]):
            a, b = (maps[:, channel].detach().double().flatten(1).numpy() for maps in (x, y))
            ma, mb = a.mean(1), b.mean(1)
            covariance = ((a - ma[:, None]) * (b - mb[:, None])).mean(1)
            luminance = (2 * ma * mb + 1e-6) / (ma**2 + mb**2 + 1e-6)
            structure = (2 * covariance + 1e-6) / (a.var(1) + b.var(1) + 1e-6)
            value += np.mean(alpha[place] * luminance + beta[place] * structure) / total
            place += 1
    assert place == 1475
    assert float(loss(*images)) == pytest.approx(1 - value, abs=1e-5)


def stages(loss, images):
    """The image and VGG16 after each block, its poolings written out as the paper has them (equation 4)."""
    convolutions = iter([m for m in loss.backbone.modules() if isinstance(m, nn.Conv2d)])
    hanning = torch.tensor(np.hanning(5)[1:-1], dtype=torch.float32)
    kernel = torch.outer(hanning, hanning) / hanning.sum() ** 2
    x, found = (images - loss.backbone.mean) / loss.backbone.std, [images]
    for block, count in enumerate((2, 2, 3, 3, 3)):
        if block:
            squares = F.pad(x.square(), (1, 1, 1, 1))
            blurred = F.conv2d(squares.flatten(0, 1)[:, None], kernel[None, None], stride=2)
            x = (blurred.unflatten(0, x.shape[:2])[:, :, 0] + 1e-12).sqrt()
        for _ in range(count):
            x = next(convolutions)(x).relu()
        found.append(x)
    return found


def test_dists_forgives_a_shifted_texture_more_than_lpips(linear, scores):
    torch.manual_seed(0)
    texture = torch.rand(1, 3, 32, 32).repeat(1, 1, 2, 2)
    shifted, noisy = texture.roll((7, 11), (2, 3)), (texture + 0.1 * torch.randn_like(texture)).clamp(0, 1)
    dists, lpips = DISTS(weights="random", calibration=scores), LPIPS(weights="random", calibration=linear)
    assert dists(shifted, texture) / dists(noisy, texture) < lpips(shifted, texture) / lpips(noisy, texture)


def both(linear, scores, **kwargs):
    return [
        LPIPS(weights="random", calibration=linear, **kwargs),
        DISTS(weights="random", calibration=scores, **kwargs),
    ]


def test_float32_zero_for_equal_images_and_finite_gradients(images, linear, scores):
    for loss in both(linear, scores):
        output, target = images[0].detach().requires_grad_(), images[1].clone().requires_grad_()
        assert float(loss(target, target)) == pytest.approx(0, abs=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(output, target)
        assert value.dtype == torch.float32
        value.backward()
        assert output.grad.abs().sum() > 0
        assert target.grad is None
        assert not any(p.requires_grad for p in loss.parameters())
        black = torch.zeros(1, 3, 32, 32, requires_grad=True)
        (gradient,) = torch.autograd.grad(loss(black, torch.ones_like(black)), black)
        assert gradient.isfinite().all()


def test_lpips_gradient_is_finite_where_no_feature_fires(images, linear):
    loss = LPIPS(weights="random", calibration=linear)
    for module in loss.backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.bias, -10.0)
    (gradient,) = torch.autograd.grad(loss(*images), images[0])
    assert gradient.isfinite().all()


@pytest.mark.slow
def test_checkpointing_changes_no_number(images, linear, scores):
    for plain, saving in zip(both(linear, scores), both(linear, scores, checkpointing=True), strict=True):
        values = [loss(*images) for loss in (plain, saving)]
        gradients = [torch.autograd.grad(value, images[0])[0] for value in values]
        assert torch.allclose(*values)
        assert torch.allclose(*gradients, atol=1e-7)


def test_calibration_is_asked_for_in_one_sentence(monkeypatch, tmp_path, linear):
    monkeypatch.setattr(calibration, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"not installed; run: pip install lpips, or set .*`calibration`.*alex\.pth"):
        LPIPS(net="alex", weights="random")
    with pytest.raises(UserError, match="pip install dists-pytorch"):
        DISTS(weights="random")
    with pytest.raises(UserError, match=rf"{Path(linear).name} has no 'lin1.*' of 192 values"):
        LPIPS(net="alex", weights="random", calibration=linear)
    with pytest.raises(UserError, match="has no 'alpha' of 1475 values"):
        DISTS(weights="random", calibration=linear)
