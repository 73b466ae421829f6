"""PatchGAN, the VGG discriminator, timm's networks, several scales; batch norm as DDP treats it."""

from importlib.util import find_spec

import pytest
import torch
from torch import nn

from sr.config import registry
from sr.core.errors import UserError
from sr.nets.io.basicsr import basicsr
from sr.nets.io.load import load_into
from sr.nets.multiscale import MultiScale
from sr.nets.norm import InstanceNorm, keep_statistics
from sr.nets.patchgan import PatchGAN
from sr.nets.spectral import SpectralConv2d
from sr.nets.timm_disc import ResNetDiscriminator, TimmDiscriminator
from sr.nets.vgg_disc import VGGDiscriminator
from sr.train.builder import TABLES

needs_basicsr = pytest.mark.skipif(find_spec("basicsr") is None, reason="basicsr, the reference, is an extra")


@pytest.mark.parametrize(("num_layers", "patch"), [(0, 1), (1, 16), (2, 34), (3, 70), (5, 286)])
def test_a_verdict_judges_a_patch_of_the_published_size(num_layers, patch):
    net = PatchGAN(num_feat=1, num_layers=num_layers, norm="none")
    for parameter in net.parameters():
        nn.init.constant_(parameter, 0.1)
    image = torch.rand(1, 3, 2 * patch + 64, 192, requires_grad=True)
    (logits,) = net(image)
    logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
    assert (image.grad.abs().sum((0, 1, 3)) > 0).sum() == patch


def test_patchgan_has_the_published_layout():
    """As in pytorch-CycleGAN-and-pix2pix: `basic` with batch norm, with instance norm, and `pixel`."""
    net = PatchGAN(num_in_ch=6)
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    kernels = {0: (64, 6, 4, 4), 2: (128, 64, 4, 4), 5: (256, 128, 4, 4), 8: (512, 256, 4, 4), 11: (1, 512, 4, 4)}
    wanted = {f"model.{i}.weight": shape for i, shape in kernels.items()}
    wanted |= {"model.0.bias": (64,), "model.11.bias": (1,)}
    for i, width in ((3, 128), (6, 256), (9, 512)):
        wanted |= {f"model.{i}.{key}": (width,) for key in ("weight", "bias", "running_mean", "running_var")}
        wanted[f"model.{i}.num_batches_tracked"] = ()
    assert shapes == wanted

    names = list(PatchGAN(norm="instance").state_dict())
    assert names == [f"model.{i}.{key}" for i in (0, 2, 5, 8, 11) for key in ("weight", "bias")]
    names = [name for name, _ in PatchGAN(num_layers=0).named_parameters()]
    assert names == ["net.0.weight", "net.0.bias", "net.2.weight", "net.3.weight", "net.3.bias", "net.5.weight"]


def test_patchgan_norms():
    assert sum(isinstance(m, SpectralConv2d) for m in PatchGAN(norm="spectral").modules()) == 5
    kinds = {norm: {type(m) for m in PatchGAN(norm=norm).modules()} for norm in ("batch", "instance", "none")}
    assert nn.BatchNorm2d in kinds["batch"]
    assert InstanceNorm in kinds["instance"]
    assert not kinds["none"] & {nn.BatchNorm2d, InstanceNorm, SpectralConv2d}


def test_patchgan_starts_as_published():
    net = PatchGAN()
    assert net.model[5].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert net.model[6].weight.mean().item() == pytest.approx(1.0, abs=0.01)
    assert not net.model[0].bias.any()


@needs_basicsr
@pytest.mark.parametrize("size", [128, 256])
def test_vgg_equals_basicsr(size):
    reference = basicsr("archs.discriminator_arch").VGGStyleDiscriminator(3, 4, size)
    ours = VGGDiscriminator(num_feat=4, input_size=size)
    ours.load_state_dict(reference.state_dict())
    x = torch.rand(2, 3, size, size)
    got, wanted = ours(x)[0], reference(x)
    assert torch.allclose(got.flatten(1), wanted, atol=1e-6)
    got.sum().backward()
    wanted.sum().backward()
    for name, parameter in reference.named_parameters():
        assert torch.allclose(ours.get_parameter(name).grad, parameter.grad, atol=1e-5), name
    for name, value in reference.state_dict().items():
        assert torch.allclose(ours.state_dict()[name], value, atol=1e-6), name


@pytest.mark.parametrize(("height", "width"), [(64, 64), (100, 76), (192, 160)])
def test_vgg_takes_any_size(height, width):
    assert VGGDiscriminator(num_feat=2)(torch.rand(2, 3, height, width))[0].shape == (2, 1, 1, 1)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit"])
def test_timm_uses_every_parameter_at_any_size(name):
    net = TimmDiscriminator(num_in_ch=6, name=name)
    (logits,) = net(torch.rand(2, 6, 72, 64))
    assert logits.shape[:2] == (2, 1)
    logits.square().mean().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_timm_sees_images_as_it_was_trained_to():
    net = TimmDiscriminator(num_in_ch=6, name="resnet18")
    assert net.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406] * 2)
    assert not any(name.startswith(("mean", "std")) for name in net.state_dict())


def test_timm_errors_are_explained(monkeypatch):
    import timm

    with pytest.raises(UserError, match=r"no model 'resnett18'\. Did you mean 'resnet18'"):
        TimmDiscriminator(name="resnett18")

    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"no route to host\); set pretrained: false, or bring"):
        ResNetDiscriminator(pretrained=True)


def test_multiscale_from_options_has_separate_weights_per_scale():
    part = {"type": "multiscale", "num_scales": 2, "of": {"type": "patchgan", "num_layers": 1, "num_feat": 4}}
    assert registry.check(part, "discriminators", TABLES) == []
    net = registry.make(part, "discriminators", TABLES, num_in_ch=6)
    fine, coarse = (scale.model[0].weight for scale in net.scales)
    assert fine.shape == coarse.shape == (4, 6, 4, 4)
    assert not torch.equal(fine, coarse)
    x = torch.rand(2, 6, 32, 32)
    maps = net(x)
    assert torch.equal(maps[0], net.scales[0](x)[0])
    assert maps[1].shape == net.scales[1](x[..., ::2, ::2])[0].shape


def test_multiscale_pools_without_a_dark_border():
    seen = []
    net = MultiScale(of=lambda: _Note(seen), num_scales=3)
    net(torch.ones(1, 3, 20, 20))
    assert [x.shape[-1] for x in seen] == [20, 10, 5]
    assert all(torch.allclose(x, torch.ones(())) for x in seen)


class _Note(nn.Module):
    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def forward(self, x):
        self.seen.append(x)
        return [x]


def test_nested_mistakes_are_named():
    part = {"type": "multiscale", "of": {"type": "patchgan", "num_layer": 1}}
    (problem,) = registry.check(part, "discriminators", TABLES)
    assert problem.path == ("of", "num_layer")
    assert "Did you mean 'num_layers'" in problem.message


@pytest.mark.parametrize("kept", [True, False])
def test_batch_norm_outlives_a_broadcast_between_two_forwards(kept):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    plain.load_state_dict(net.state_dict())
    if kept:
        keep_statistics(net)
    x = torch.rand(2, 3, 8, 8)
    loss = net(x).square().mean()
    assert torch.equal(loss, plain(x).square().mean())
    assert torch.equal(net[1].running_var, plain[1].running_var)
    with torch.no_grad():
        net[1].running_mean.copy_(torch.zeros(4))  # what DDP of older torch does before the next forward
    if kept:
        loss.backward()
    else:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_a_published_patchgan_file_loads(tmp_path):
    theirs, ours = PatchGAN(num_in_ch=6, num_feat=4), PatchGAN(num_in_ch=6, num_feat=4)
    torch.save(theirs.state_dict(), tmp_path / "latest_net_D.pth")
    load_into(ours, tmp_path / "latest_net_D.pth")
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in theirs.state_dict().items())
