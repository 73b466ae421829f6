"""VGG19 against basicsr's perceptual loss; no weights are downloaded."""

from importlib.util import find_spec
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch
from torchvision.models import VGG19_Weights
from torchvision.models.vgg import cfgs, make_layers

from sr.errors import UserError
from sr.losses.perceptual import VGG19
from sr.nets.basicsr import basicsr

needs_basicsr = pytest.mark.skipif(find_spec("basicsr") is None, reason="basicsr, the reference, is an extra")

pytestmark = pytest.mark.filterwarnings("ignore:vgg19 runs with random weights")
SHALLOW = {"conv1_2": 0.1, "conv2_2": 1.0}


@needs_basicsr
def test_equals_basicsr(monkeypatch):
    ours = VGG19(weights="random")
    features = make_layers(cfgs["E"])[: len(ours.features)]
    features.load_state_dict(ours.features.state_dict())
    arch = basicsr("archs.vgg_arch")
    monkeypatch.setattr(arch, "vgg", SimpleNamespace(vgg19=lambda pretrained: SimpleNamespace(features=features)))
    layers = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0}
    reference = basicsr("losses.basic_loss").PerceptualLoss(layers)
    output, target = torch.rand(1, 3, 48, 48, requires_grad=True), torch.rand(1, 3, 48, 48)
    got, wanted = ours(output, target), reference(output, target)[0]
    assert torch.allclose(got, wanted, rtol=1e-5)
    (gradient,) = torch.autograd.grad(got, output)
    (expected,) = torch.autograd.grad(wanted, output)
    assert torch.allclose(gradient, expected, atol=1e-8, rtol=1e-4)


def test_frozen_truncated_and_quiet_about_global_randomness():
    torch.manual_seed(0)
    loss = VGG19(layers=SHALLOW, weights="random")
    draw = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(draw, torch.rand(1))
    assert not any(p.requires_grad for p in loss.parameters())
    assert len(loss.features) == 8  # up to conv2_2 and no further


def test_gradient_reaches_the_output_only_and_distance_is_float32():
    loss = VGG19(layers=SHALLOW, weights="random")
    output, target = torch.rand(1, 3, 16, 16, requires_grad=True), torch.rand(1, 3, 16, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(output, target)
    assert value.dtype == torch.float32
    value.backward()
    assert output.grad.abs().sum() > 0
    assert target.grad is None


def test_weights_from_a_file(tmp_path):
    random = VGG19(layers=SHALLOW, weights="random")
    state = {f"features.{k}": v for k, v in random.features.state_dict().items()}
    torch.save(state | {"classifier.0.weight": torch.zeros(2)}, tmp_path / "vgg.pth")
    loaded = VGG19(layers=SHALLOW, weights=str(tmp_path / "vgg.pth"))
    output, target = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    assert torch.equal(random(output, target), loaded(output, target))
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "part.pth")
    with pytest.raises(UserError, match=r"part\.pth holds no weights of torchvision's vgg19"):
        VGG19(layers=SHALLOW, weights=str(tmp_path / "part.pth"))


def test_offline_says_how_to_get_them(monkeypatch):
    def offline(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(VGG19_Weights, "get_state_dict", offline)
    with pytest.raises(UserError, match=r"cannot be downloaded .* put https://.*vgg19.* set the loss's `weights`"):
        VGG19()


def test_random_says_so():
    with pytest.warns(UserWarning, match="random weights"):
        VGG19(layers=SHALLOW, weights="random")


def test_unknown_layer():
    with pytest.raises(UserError, match=r"no layer 'conv3_5'.*Did you mean 'conv3_"):
        VGG19(layers={"conv3_5": 1.0}, weights="random")
