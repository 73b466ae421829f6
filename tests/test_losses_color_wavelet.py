"""Oklab, wavelet, contextual and FDL against their formulas in float64, and the networks of torchvision."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision import models

from sr.core.errors import UserError
from sr.losses.backbones import open_backbone
from sr.losses.contextual import FDL, Contextual, contextual
from sr.losses.oklab import Oklab, oklab
from sr.losses.perceptual import Perceptual
from sr.losses.wavelet import Wavelet, daubechies
from sr.train.builder import Builder, load

pytestmark = pytest.mark.filterwarnings("ignore:.* has random weights")


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, 20, 24, generator=random), torch.rand(2, 3, 20, 24, generator=random)


# ---- Oklab -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [  # the values of CSS Color 4 for white, red and blue
        ((1, 1, 1), (1.0, 0.0, 0.0)),
        ((1, 0, 0), (0.62796, 0.22486, 0.12585)),
        ((0, 0, 1), (0.45201, -0.03246, -0.31153)),
    ],
)
def test_oklab_of_known_colors(rgb: tuple[float, ...], lab: tuple[float, ...]) -> None:
    made = torch.stack(oklab(torch.tensor(rgb, dtype=torch.float64).view(1, 3, 1, 1))).flatten()
    torch.testing.assert_close(made, torch.tensor(lab, dtype=torch.float64), atol=2e-5, rtol=0)


def test_oklab_equals_its_formula_in_float64(images: tuple[Tensor, Tensor]) -> None:
    to_cones = np.array([[0.8189330101, 0.3618667424, -0.1288597137], [0.0329845436, 0.9293118715, 0.0361456387],
                         [0.0482003018, 0.2643662691, 0.6338517070]])  # fmt: skip
    to_xyz = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                       [0.0193339, 0.1191920, 0.9503041]])  # fmt: skip
    to_lab = np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                       [0.0259040371, 0.7827717662, -0.8086757660]])  # fmt: skip

    def reference(rgb: Tensor) -> np.ndarray:  # by way of XYZ, as the article defines the space
        x = rgb.double().numpy()
        linear = np.where(x > 0.04045, ((x + 0.055) / 1.055) ** 2.4, x / 12.92)
        cones = np.einsum("ij,bjhw->bihw", to_cones @ to_xyz, linear)
        return np.einsum("ij,bjhw->bihw", to_lab, np.cbrt(cones))

    difference = np.abs(reference(images[0]) - reference(images[1])).mean((0, 2, 3))
    got = Oklab(lightness=0.5, chroma=2.0)(*images).item()
    assert got == pytest.approx(0.5 * difference[0] + 2 * difference[1:].sum(), rel=1e-3)


def test_oklab_separates_color_from_brightness(images: tuple[Tensor, Tensor]) -> None:
    gray, darker = images[0][:, :1].expand(-1, 3, -1, -1), images[0][:, :1].expand(-1, 3, -1, -1) * 0.8
    assert Oklab(lightness=0)(gray, darker) < 1e-3 * Oklab()(gray, darker)


def test_oklab_has_the_right_gradient_inside_and_outside_of_the_range() -> None:
    x = torch.linspace(-0.1, 1.1, 36, dtype=torch.float64).view(1, 3, 3, 4).flip(1).requires_grad_()
    torch.autograd.gradcheck(lambda x: torch.stack(oklab(x)).sum(), [x])
    black = torch.zeros(1, 3, 2, 2, requires_grad=True)
    (slope,) = torch.autograd.grad(Oklab()(black, torch.ones(1, 3, 2, 2)), black)
    assert 0 < slope.abs().max() < 10


# ---- wavelet ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", range(1, 11))
def test_filters_are_daubechies(order: int) -> None:
    taps = np.array(daubechies(order))
    known = {1: [1, 1], 2: [1 + 3**0.5, 3 + 3**0.5, 3 - 3**0.5, 1 - 3**0.5]}.get(order)
    if known:
        np.testing.assert_allclose(taps, np.array(known) / sum(known), atol=1e-12)
    full = np.correlate(taps, taps, "full")[2 * order - 1 :: 2] * 2
    np.testing.assert_allclose(full, [1, *[0] * (order - 1)], atol=1e-7)  # orthogonal to its even shifts
    signs = (-1.0) ** np.arange(2 * order)
    for power in range(order):  # vanishing moments
        assert abs((signs * taps * np.arange(2 * order, dtype=float) ** power).sum()) < 1e-5 * (2 * order) ** power


def test_wavelet_equals_haar_in_float64(images: tuple[Tensor, Tensor]) -> None:
    band = (images[0] - images[1]).double().numpy()
    expected = 0.0
    for level in range(2):
        step = 2**level
        padded = np.pad(band, ((0, 0), (0, 0), (0, step), (0, step)), "edge")
        a, b, c, d = (padded[..., y : y + 20, x : x + 24] for y in (0, step) for x in (0, step))
        expected += np.abs(a + b - c - d).mean() / 4 + np.abs(a - b + c - d).mean() / 4
        expected += 0.7 * np.abs(a - b - c + d).mean() / 4
        band = (a + b + c + d) / 4
    expected += 0.3 * np.abs(band).mean()
    assert Wavelet(levels=2, order=1, low=0.3, diagonal=0.7)(*images).item() == pytest.approx(expected, rel=1e-5)


def test_wavelet_is_zero_for_smooth_errors_without_the_low_pass() -> None:
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    loss = Wavelet(levels=1, order=2, low=0)
    inner = loss(ramp + 0.1, torch.zeros_like(ramp))
    assert inner < 1e-3  # two vanishing moments: only the repeated border of a ramp is left
    assert Wavelet(levels=1, low=0)(ramp + 0.1, ramp) < 1e-6
    assert Wavelet(levels=1, low=1)(ramp + 0.1, ramp) == pytest.approx(0.1, abs=1e-5)


# ---- contextual and FDL ----------------------------------------------------------------------------------------------


def test_contextual_equals_its_formula_in_float64() -> None:
    random = torch.Generator().manual_seed(0)
    got, wanted = (torch.rand(2, 5, count, generator=random) for count in (7, 9))
    total = 0.0
    for x, y in zip(got.double().numpy(), wanted.double().numpy(), strict=True):
        center = y.mean(1, keepdims=True)
        x, y = x - center, y - center
        x, y = x / np.linalg.norm(x, axis=0), y / np.linalg.norm(y, axis=0)
        similar = np.zeros((7, 9))
        for i in range(7):
            distances = [1 - x[:, i] @ y[:, j] for j in range(9)]
            weights = [math.exp((1 - d / (min(distances) + 1e-5)) / 0.5) for d in distances]
            similar[i] = np.array(weights) / sum(weights)
        total -= math.log(similar.max(0).mean()) / 2
    assert contextual(got, wanted, bandwidth=0.5).item() == pytest.approx(total, rel=1e-4)
    shuffled = contextual(got[..., torch.randperm(7)], wanted[..., torch.randperm(9)], bandwidth=0.5)
    assert shuffled.item() == pytest.approx(total, rel=1e-4)  # places do not matter
    assert contextual(wanted, wanted, bandwidth=0.5) < 0.5 * total


def test_contextual_gradient() -> None:
    random = torch.Generator().manual_seed(0)
    got, wanted = (torch.rand(1, 4, count, generator=random, dtype=torch.float64) for count in (5, 6))
    torch.autograd.gradcheck(lambda x: contextual(x, wanted, bandwidth=0.5), [got.requires_grad_()])


def test_contextual_takes_few_positions_of_a_large_image(images: tuple[Tensor, Tensor]) -> None:
    loss = Contextual(layers={"conv1_1": 1.0}, weights="random", positions=100)
    assert loss._sampled(torch.rand(1, 4, 20, 24)).shape == (1, 4, 56)
    assert loss._sampled(torch.rand(1, 4, 10, 10)).shape == (1, 4, 100)
    assert loss(*images) > 0.1
    assert loss(images[1], images[1]) < 1e-4


def test_fdl_equals_its_formula_in_float64(images: tuple[Tensor, Tensor]) -> None:
    loss = FDL(layers={"relu1_1": 1.0}, weights="random", patch=3, projections=6, phase=0.5)
    got, wanted = (loss.backbone(image)["relu1_1"].double() for image in images)
    vectors = loss._unit_vectors(64, torch.device("cpu")).double()
    expected = 0.0
    for weight, part in ((1.0, torch.abs), (0.5, lambda x: torch.where(x.abs() < 1e-3, 0.0, x.angle()))):
        for number in range(2):
            one, other = (part(torch.fft.fft2(x[number], norm="ortho")) for x in (got, wanted))
            for vector in vectors:
                lines = []
                for spectrum in (one, other):
                    patches = spectrum.unfold(1, 3, 1).unfold(2, 3, 1)  # [64, h, w, 3, 3]
                    lines.append((patches * vector[:, None, None]).sum((0, 3, 4)).flatten().sort().values)
                expected += weight * (lines[0] - lines[1]).abs().mean().item() / (2 * 6)
    assert loss(*images).item() == pytest.approx(expected, rel=1e-3)
    assert (vectors.flatten(1).norm(dim=1) - 1).abs().max() < 1e-6


def test_fdl_is_zero_for_equal_images_and_the_same_in_every_run(images: tuple[Tensor, Tensor]) -> None:
    one, other = (FDL(layers={"relu1_1": 1.0}, weights="random") for _ in range(2))
    assert one(*images).equal(other(*images))
    output = images[1].clone().requires_grad_()
    value = one(output, images[1])
    assert value == 0
    (slope,) = torch.autograd.grad(one(output * 0.9, images[1]), output)
    assert torch.isfinite(slope).all()
    assert slope.abs().sum() > 0


def test_fdl_names_an_image_that_is_too_small(images: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(UserError, match=r"one has 2; increase data\.gt_size"):
        FDL(layers={"relu4_1": 1.0}, weights="random")(*images)


# ---- torchvision -----------------------------------------------------------------------------------------------------


def test_any_network_of_torchvision_in_sequence(images: tuple[Tensor, Tensor]) -> None:
    loss = Perceptual(backbone="torchvision/mobilenet_v3_small", weights="random")
    assert list(loss.backbone.layers) == ["features.0", "features.1", "features.3", "features.8", "features.12"]
    output = images[0].clone().requires_grad_()
    loss(output, images[1]).backward()
    assert output.grad is not None
    assert output.grad.abs().sum() > 0
    assert loss(images[1], images[1]) == 0
    with pytest.raises(UserError, match=r"torchvision/vit_b_16 is not one of .*Or choose timm/NAME"):
        open_backbone("torchvision/vit_b_16")


def test_weights_by_their_name_bring_their_normalization(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []
    first = {"weight": torch.rand(64, 3, 3, 3), "bias": torch.rand(64)}
    norm = {f"bn1.{key}": torch.rand(64) for key in ("weight", "bias", "running_mean", "running_var")}
    stem = {"conv1.weight": torch.rand(64, 3, 7, 7)} | norm

    def state(self: models.WeightsEnum, **kwargs: object) -> dict[str, Tensor]:
        asked.append(self)
        return {f"features.0.{key}": value for key, value in first.items()} if "VGG" in type(self).__name__ else stem

    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", state)
    net = open_backbone("vgg16", {"conv1_1": 1.0}, weights="IMAGENET1K_FEATURES")
    assert asked == [models.VGG16_Weights.IMAGENET1K_FEATURES]
    assert net.std.flatten().tolist() == pytest.approx([1 / 255] * 3)
    open_backbone("torchvision/resnet18", {"stem": 1.0})
    assert asked[1] is models.ResNet18_Weights.IMAGENET1K_V1
    torch.save(stem, tmp_path / "net.pth")
    assert open_backbone("torchvision/resnet18", {"stem": 1.0}, weights=str(tmp_path / "net.pth"))


def test_contextual_and_fdl_train_a_step(recipe: Callable[..., Path]) -> None:
    shallow = "weights: random, layers: {conv1_1: 1}, weight: 0.1"
    sets = [f"losses.contextual={{{shallow}, positions: 64}}", f"losses.fdl={{{shallow}, projections: 4}}"]
    sets += ["train.total_steps=1", "data.gt_size=16", "task=psnr", "discriminator=null", "losses.gan=null"]
    Builder(load(recipe(optimizer__discriminator=None), sets)).trainer().run()
