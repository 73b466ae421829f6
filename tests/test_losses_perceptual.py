"""Perceptual and style losses against basicsr, and what every backbone promises; no weights are downloaded."""

from collections import OrderedDict
from importlib.util import find_spec
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import timm
import torch
from torch import nn
from torchvision import models
from torchvision.models.vgg import cfgs, make_layers

from sr.core.errors import UserError
from sr.losses.backbones import BACKBONES, keep_in_half, open_backbone
from sr.losses.feature_cache import FeatureCache
from sr.losses.perceptual import VGG19, Perceptual, Style, gram
from sr.nets.io.basicsr import basicsr
from tests.helpers.tiers import slow

needs_basicsr = pytest.mark.skipif(find_spec("basicsr") is None, reason="basicsr, the reference, is an extra")
pytestmark = pytest.mark.filterwarnings("ignore:.* has random weights")

SHALLOW = {"conv1_2": 0.1, "conv2_2": 1.0}


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.rand(2, 3, 48, 48, requires_grad=True), torch.rand(2, 3, 48, 48)


def same(got, wanted, output):
    """Value and gradient."""
    assert torch.allclose(got, wanted, rtol=1e-5)
    gradient, expected = (torch.autograd.grad(loss, output)[0] for loss in (got, wanted))
    assert torch.allclose(gradient, expected, atol=1e-3 * float(expected.abs().max()), rtol=1e-3)


# ---- values --------------------------------------------------------------------------------------------------------


def as_in_basicsr(loss, monkeypatch, style_weight=0.0):
    features = make_layers(cfgs["E"])
    own = loss.backbone.network.state_dict().values()
    features.load_state_dict(dict(zip(features.state_dict(), own, strict=False)), strict=False)
    arch = basicsr("archs.vgg_arch")
    monkeypatch.setattr(arch, "vgg", SimpleNamespace(vgg19=lambda pretrained: SimpleNamespace(features=features)))
    return basicsr("losses.basic_loss").PerceptualLoss(loss.backbone.layers, style_weight=style_weight)


@needs_basicsr
def test_vgg19_equals_basicsr(monkeypatch, images):
    ours = VGG19(weights="random")
    reference = as_in_basicsr(ours, monkeypatch)
    same(ours(*images), reference(*images)[0], images[0])


@needs_basicsr
@pytest.mark.parametrize("distance", ["l1", *slow(["l2"])])
def test_both_parts_equal_basicsr(distance, monkeypatch, images):
    ours = Perceptual(layers=SHALLOW, distance=distance, style_weight=3.0, weights="random")
    reference = as_in_basicsr(ours, monkeypatch, style_weight=3.0)
    reference.criterion = {"l1": nn.L1Loss(), "l2": nn.MSELoss()}[distance]
    same(ours(*images), sum(reference(*images)), images[0])
    style = Style(layers=SHALLOW, distance=distance, weights="random")
    same(3 * style(*images), reference(*images)[1], images[0])


def test_charbonnier(images):
    loss = Perceptual(layers={"relu1_1": 2.0}, distance="charbonnier", weights="random")
    got, wanted = (loss.backbone(x)["relu1_1"] for x in images)
    assert torch.allclose(loss(*images), 2 * ((got - wanted).square() + 1e-12).sqrt().mean())


def test_gram_forgets_places():
    features = torch.rand(1, 4, 6, 6)
    assert torch.allclose(gram(features), gram(features.roll(2, dims=-1)), atol=1e-6)
    assert not torch.allclose(gram(features), gram(features.flip(1)), atol=1e-3)


# ---- backbones -----------------------------------------------------------------------------------------------------

TIMM = ["timm/resnet10t", "timm/vit_tiny_patch16_224", "timm/swin_tiny_patch4_window7_224", "timm/convnext_atto"]
QUICK = ["vgg19", "alexnet", "squeezenet1_1", "mobilenet_v2", "timm/resnet10t", "timm/vit_tiny_patch16_224"]


@pytest.mark.parametrize("name", QUICK + slow(sorted({*BACKBONES, *TIMM} - {*QUICK})))
def test_backbone_gives_maps_of_its_layers_at_any_size(name):
    backbone = open_backbone(name, weights="random")
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not any(module.training for module in backbone.modules())
    output = torch.rand(2, 3, 50, 70, requires_grad=True)
    features = backbone(output)
    assert list(features) == list(backbone.layers)
    for value in features.values():
        assert value.ndim == 4
        assert value.shape[2] < value.shape[3]  # [B, channels, h, w], not channels last
        assert value.std() > 1e-4
    sum(value.sum() for value in features.values()).backward()
    assert output.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("vgg19", ("conv1_2", "relu1_2", "pool2", "conv5_4")),
        ("mobilenet_v2", ("features.0", "features.4")),
        *slow([("resnet50", ("stem", "layer2")), ("convnext_tiny", ("features.0", "features.3"))]),
    ],
)
def test_layers_are_those_of_torchvision(name, layers, tmp_path):
    """The whole network of torchvision, asked at the same places by hooks."""
    torch.manual_seed(1)
    vgg19 = nn.Sequential(OrderedDict(features=make_layers(cfgs["E"])))  # its classifier takes half a gigabyte
    whole = vgg19 if name == "vgg19" else BACKBONES[name].build()
    for module in whole.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    torch.save(whole.state_dict(), tmp_path / "net.pth")
    backbone = open_backbone(name, dict.fromkeys(layers, 1.0), weights=str(tmp_path / "net.pth"))
    paths, seen = BACKBONES[name].names(whole), {}
    for layer in layers:
        module = whole.get_submodule(paths[layer][-1])
        module.register_forward_hook(lambda m, i, output, layer=layer: seen.update({layer: output.clone()}))
    images = torch.rand(1, 3, 40, 40)
    with torch.no_grad():
        whole.eval()((images - backbone.mean) / backbone.std)
        got = backbone(images)
    assert list(got) == list(layers)
    for layer in layers:
        assert torch.allclose(got[layer], seen[layer], atol=1e-5), layer


def test_before_the_relu_is_not_overwritten_by_it():
    features = open_backbone("vgg16", {"conv2_1": 1.0, "relu2_1": 1.0}, weights="random")(torch.rand(1, 3, 16, 16))
    assert features["conv2_1"].min() < 0
    assert torch.equal(features["conv2_1"].relu(), features["relu2_1"])


def test_ends_at_the_last_layer_and_leaves_global_randomness_alone():
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    loss = VGG19(layers=SHALLOW, weights="random")
    open_backbone("timm/resnet10t", weights="random")
    assert torch.equal(state, torch.random.get_rng_state())
    convolutions = [m for m in loss.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 4  # up to conv2_2 and no further


def test_gradient_reaches_the_output_only_and_distance_is_float32():
    loss = Perceptual(layers=SHALLOW, style_weight=1.0, weights="random")
    output, target = torch.rand(1, 3, 16, 16, requires_grad=True), torch.rand(1, 3, 16, 16, requires_grad=True)
    seen = []
    loss.judge = lambda got, wanted: seen.extend((got, gram(got))) or (got - wanted).abs().mean()
    with torch.autocast("cpu", torch.bfloat16):
        assert loss.backbone(output)["conv1_2"].dtype == torch.bfloat16
        value = loss(output, target)
    assert value.dtype == torch.float32
    assert all(x.dtype == torch.float32 for x in seen)
    value.backward()
    assert output.grad.abs().sum() > 0
    assert target.grad is None


@pytest.mark.parametrize("name", ["timm/resnet10t", *slow(["vgg16", "timm/vit_tiny_patch16_224"])])
def test_checkpointing_changes_no_number(name, images):
    output, target = images
    results, kept = [], []
    for checkpointing in (False, True):
        loss = Perceptual(backbone=name, weights="random", checkpointing=checkpointing)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x):
            value = loss(output, target)
        results.append((value.detach(), torch.autograd.grad(value, output)[0]))
        kept.append(sum(sizes))
    assert torch.allclose(results[0][0], results[1][0])
    assert torch.allclose(results[0][1], results[1][1], atol=1e-6)
    assert kept[1] < kept[0]


# ---- weights -------------------------------------------------------------------------------------------------------


def test_weights_from_a_file(tmp_path, images):
    random = VGG19(layers=SHALLOW, weights="random")
    names = [f"features.{place}.{kind}" for place in (0, 2, 5, 7) for kind in ("weight", "bias")]
    state = dict(zip(names, random.backbone.network.state_dict().values(), strict=True))
    torch.save(state | {"classifier.0.weight": torch.zeros(2)}, tmp_path / "vgg.pth")
    loaded = VGG19(layers=SHALLOW, weights=str(tmp_path / "vgg.pth"))
    assert torch.equal(random(*images), loaded(*images))
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "part.pth")
    with pytest.raises(UserError, match=r"part\.pth does not hold the weights of torchvision's vgg19"):
        VGG19(layers=SHALLOW, weights=str(tmp_path / "part.pth"))
    with pytest.raises(UserError, match=r"vgg19 has no weights IMAGENET1K_V2; set weights to IMAGENET1K_V1, pretr"):
        VGG19(layers=SHALLOW, weights="IMAGENET1K_V2")


def test_timm_weights_from_a_file(tmp_path, images):
    torch.manual_seed(7)
    state = timm.create_model("resnet10t").state_dict()
    torch.save(state, tmp_path / "net.pth")
    backbone = open_backbone("timm/resnet10t", {"layer1": 1.0}, weights=str(tmp_path / "net.pth"))
    assert torch.equal(backbone.network.state_dict()["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])
    del state["layer3.0.conv1.weight"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(UserError, match=r"timm/resnet10t cannot be loaded .*layer3\.0\.conv1"):
        open_backbone("timm/resnet10t", {"layer1": 1.0}, weights=str(tmp_path / "part.pth"))


def test_offline_explains_how_to_get_the_weights(monkeypatch):
    def offline(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(models.VGG19_Weights, "get_state_dict", offline)
    with pytest.raises(UserError, match=r"cannot be downloaded .* put https://.*vgg19.* set the loss's `weights`"):
        VGG19()
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"timm/resnet10t cannot be loaded .* set the loss's `weights` to a file"):
        Perceptual(backbone="timm/resnet10t")


@pytest.mark.parametrize("name", ["vgg19", "timm/resnet10t"])
def test_random_weights_warn(name):
    with pytest.warns(UserWarning, match=f"{name} has random weights"):
        open_backbone(name, weights="random")


@pytest.mark.parametrize(
    ("name", "layer", "hint"),
    [("vgg19", "conv3_5", "conv3_"), ("resnet50", "layer5", "layer4"), ("timm/resnet10t", "layer5", "layer4")],
)
def test_unknown_layer(name, layer, hint):
    with pytest.raises(UserError, match=rf"no layer '{layer}'.*Did you mean '{hint}"):
        open_backbone(name, {layer: 1.0}, weights="random")


# ---- cache ---------------------------------------------------------------------------------------------------------


def test_cache_computes_each_target_once():
    loss = Perceptual(layers=SHALLOW, weights="random", cache=64)
    plain = Perceptual(layers=SHALLOW, weights="random")
    assert plain.report() == {}
    targets = torch.rand(3, 3, 16, 16)
    for rows, hits in (([0, 1], 0.0), ([1, 2], 0.5), ([2, 0], 1.0)):
        output = torch.rand(2, 3, 16, 16, requires_grad=True)
        same(loss(output, targets[rows]), plain(output, targets[rows]), output)
        assert loss.report() == {"cache_hits": hits}


def test_cache_is_bounded_and_drops_the_least_recently_used():
    asked = []

    def extract(images):
        asked.extend(images[:, 0, 0, 0].tolist())
        return {"a": images.expand(-1, 3, 256, 256)}  # 0.75 MiB each

    cache = FeatureCache(extract, megabytes=2)
    for value in (1.0, 2.0, 1.0, 3.0, 1.0, 2.0):
        (feature,) = cache(torch.full((1, 3, 1, 1), value))["a"]
        assert torch.equal(feature, torch.full((3, 256, 256), value))
    assert asked == [1.0, 2.0, 3.0, 2.0]
    assert cache(torch.arange(5.0).view(5, 1, 1, 1).repeat(1, 3, 1, 1))["a"].shape == (5, 3, 256, 256)


def test_weights_in_half_precision_change_nothing_under_autocast() -> None:
    loss = Perceptual(backbone="vgg16", layers={"conv2_2": 1.0}, weights="random")
    output, target = torch.rand(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    values = []
    for _ in range(2):
        x = output.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(x, target)
        value.backward()
        values.append((value.detach(), x.grad))
        keep_in_half(loss, torch.bfloat16)
    assert {parameter.dtype for parameter in loss.parameters()} == {torch.bfloat16}
    assert torch.equal(values[0][0], values[1][0])
    assert torch.equal(values[0][1], values[1][1])
