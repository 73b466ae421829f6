"""The generators of pix2pix and CycleGAN: their published layout and output, their files, sizes and test time."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.config import registry
from sr.core.errors import UserError
from sr.nets.io.load import architecture, load_into, open_model
from sr.nets.io.state_dicts import save_safetensors
from sr.nets.translation import Translator, norm_layer
from sr.nets.unet import UNet
from sr.train.builder import TABLES
from tests.helpers.tiers import slow

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]
BATCH = ("weight", "bias", "running_mean", "running_var")


# ---- the published networks, reimplemented on their state dicts ------------------------------------------------------


def norm_shapes(name: str, width: int, norm: str) -> Shapes:
    if norm == "instance":
        return {}
    return {f"{name}.{key}": (width,) for key in BATCH} | {f"{name}.num_batches_tracked": ()}


def conv_shapes(name: str, *shape: int, bias: int = 0) -> Shapes:
    return {f"{name}.weight": shape} | ({f"{name}.bias": (bias,)} if bias else {})


def unet_shapes(*, depth: int, ngf: int, norm: str, ins: int = 3, outs: int = 3) -> Shapes:
    """Level i of UnetSkipConnectionBlock stands at `model.model` + `.1.model` + (i - 1) times `.3.model`."""
    widths, bias = [ngf * min(2**i, 8) for i in range(depth)], norm == "instance"
    found = conv_shapes("model.model.0", ngf, ins, 4, 4, bias=ngf * bias)
    found |= conv_shapes("model.model.3", 2 * ngf, outs, 4, 4, bias=outs)
    for level in range(1, depth):
        outer, inner, at = widths[level - 1], widths[level], "model.model.1.model" + ".3.model" * (level - 1)
        found |= conv_shapes(f"{at}.1", inner, outer, 4, 4, bias=inner * bias)
        if level < depth - 1:
            found |= norm_shapes(f"{at}.2", inner, norm)
            found |= conv_shapes(f"{at}.5", 2 * inner, outer, 4, 4, bias=outer * bias)
            found |= norm_shapes(f"{at}.6", outer, norm)
        else:
            found |= conv_shapes(f"{at}.3", inner, outer, 4, 4, bias=outer * bias)
            found |= norm_shapes(f"{at}.4", outer, norm)
    return found


def resnet_shapes(*, depth: int, ngf: int, norm: str, dropout: bool, ins: int = 3, outs: int = 3) -> Shapes:
    bias = norm == "instance"

    def layer(place: int | str, width: int, *shape: int) -> Shapes:
        after = int(str(place).split(".")[-1]) + 1
        head = f"model.{place}".rpartition(".")[0]
        return conv_shapes(f"model.{place}", *shape, bias=width * bias) | norm_shapes(f"{head}.{after}", width, norm)

    found = layer(1, ngf, ngf, ins, 7, 7)
    found |= layer(4, 2 * ngf, 2 * ngf, ngf, 3, 3) | layer(7, 4 * ngf, 4 * ngf, 2 * ngf, 3, 3)
    for block in range(10, 10 + depth):
        for place in (1, 6 if dropout else 5):
            found |= layer(f"{block}.conv_block.{place}", 4 * ngf, 4 * ngf, 4 * ngf, 3, 3)
    found |= layer(10 + depth, 2 * ngf, 4 * ngf, 2 * ngf, 3, 3) | layer(13 + depth, ngf, 2 * ngf, ngf, 3, 3)
    return found | conv_shapes(f"model.{17 + depth}", outs, ngf, 7, 7, bias=outs)


class Published:
    """Runs a state dict as the original does. mode: `train` (also its test.py), or `eval` (its test.py --eval)."""

    def __init__(self, state: State, *, dropout: bool = False, mode: str = "train") -> None:
        self.state, self.dropout, self.training = state, dropout, mode == "train"

    def conv(self, x: Tensor, name: str, *args: Any, up: bool = False) -> Tensor:
        run = F.conv_transpose2d if up else F.conv2d
        return run(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"), *args)

    def norm(self, x: Tensor, name: str) -> Tensor:
        if f"{name}.weight" not in self.state:
            x = x - x.mean((2, 3), keepdim=True)
            return x / (x.square().mean((2, 3), keepdim=True) + 1e-5).sqrt()
        weight, bias, mean, var = (self.state[f"{name}.{key}"][:, None, None] for key in BATCH)
        if self.training:
            mean = x.mean((0, 2, 3), keepdim=True)
            var = (x - mean).square().mean((0, 2, 3), keepdim=True)
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, self.training) if self.dropout else x

    def unet(self, x: Tensor, depth: int) -> Tensor:
        y = self.level(self.conv(x, "model.model.0", 2, 1), "model.model.1.model", depth - 2)
        return self.conv(F.relu(y), "model.model.3", 2, 1, up=True).tanh()

    def level(self, x: Tensor, at: str, below: int) -> Tensor:
        y, place = self.conv(F.leaky_relu(x, 0.2), f"{at}.1", 2, 1), 3
        if below:
            y, place = self.level(self.norm(y, f"{at}.2"), f"{at}.3.model", below - 1), 5
        y = self.norm(self.conv(F.relu(y), f"{at}.{place}", 2, 1, up=True), f"{at}.{place + 1}")
        if below and x.shape[1] == self.state[f"{at}.1.weight"].shape[0]:
            y = self.drop(y)
        return torch.cat([x, y], 1)

    def resnet(self, x: Tensor, depth: int) -> Tensor:
        x = F.relu(self.norm(self.conv(F.pad(x, [3] * 4, "reflect"), "model.1"), "model.2"))
        for place in (4, 7):
            x = F.relu(self.norm(self.conv(x, f"model.{place}", 2, 1), f"model.{place + 1}"))
        for block in range(10, 10 + depth):
            at, place = f"model.{block}.conv_block", 6 if self.dropout else 5
            y = F.relu(self.norm(self.conv(F.pad(x, [1] * 4, "reflect"), f"{at}.1"), f"{at}.2"))
            y = self.conv(F.pad(self.drop(y), [1] * 4, "reflect"), f"{at}.{place}")
            x = x + self.norm(y, f"{at}.{place + 1}")
        for place in (10 + depth, 13 + depth):
            x = F.relu(self.norm(self.conv(x, f"model.{place}", 2, 1, 1, up=True), f"model.{place + 1}"))
        return self.conv(F.pad(x, [3] * 4, "reflect"), f"model.{17 + depth}").tanh()

    def __call__(self, x: Tensor) -> Tensor:
        """0..1 -> 0..1, as our nets have it."""
        depth = sum(value.ndim == 4 for value in self.state.values())
        unet = "model.model.0.weight" in self.state
        y = self.unet(2 * x - 1, depth // 2) if unet else self.resnet(2 * x - 1, (depth - 6) // 2)
        return (y + 1) / 2


def random_state(shapes: Shapes) -> State:
    """Weights with which every part of the network shows in the output."""
    state = {}
    for name, shape in shapes.items():
        if len(shape) == 4:
            state[name] = torch.randn(shape) / (shape[1] * shape[2] * shape[3]) ** 0.5
        elif name.endswith(("running_var", "weight")):
            state[name] = torch.rand(shape) + 0.5
        else:
            state[name] = torch.tensor(7) if name.endswith("tracked") else torch.randn(shape) * 0.1
    return state


NETS = {
    **{f"unet {norm}": (unet_shapes(depth=7, ngf=2, norm=norm), norm == "batch") for norm in ("batch", "instance")},
    **{
        f"resnet {norm}{' dropout' * dropout}": (resnet_shapes(depth=6, ngf=4, norm=norm, dropout=dropout), dropout)
        for norm in ("batch", "instance")
        for dropout in (False, True)
    },
}
"""Name -> (keys and shapes, whether it is opened with dropout)."""
QUICK = ["unet batch", "unet instance", "resnet batch dropout"]
every_net = pytest.mark.parametrize("name", NETS)


def made(kind: str, scale: int = 1, **kwargs: Any) -> Any:
    return registry.make({"type": kind} | kwargs, "generators", TABLES, scale=scale)


def like(name: str, **kwargs: Any) -> Translator:
    family, norm, *dropout = name.split()
    if family == "unet":
        return made("unet_128", num_feat=2, norm=norm, dropout=norm == "batch", **kwargs)
    return made("resnet_6blocks", num_feat=4, norm=norm, dropout=bool(dropout), **kwargs)


def run(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """With the same dropout every time."""
    torch.manual_seed(1)
    with torch.no_grad():
        return net(x)


def shapes(net: nn.Module) -> Shapes:
    return {name: tuple(value.shape) for name, value in net.state_dict().items()}


# ---- layout ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_published_layouts_key_by_key(norm: str) -> None:
    with torch.device("meta"):
        for downs in (7, 8):
            net = made(f"unet_{2**downs}", norm=norm, num_in_ch=1, num_out_ch=2)
            assert shapes(net) == unet_shapes(depth=downs, ngf=64, norm=norm, ins=1, outs=2)
        assert shapes(made("unet", num_downs=5, norm=norm)) == unet_shapes(depth=5, ngf=64, norm=norm)
        for blocks in (6, 9):
            for drop in (False, True):
                net = made(f"resnet_{blocks}blocks", norm=norm, dropout=drop, num_in_ch=1, num_out_ch=2)
                assert shapes(net) == resnet_shapes(depth=blocks, ngf=64, norm=norm, dropout=drop, ins=1, outs=2)


@pytest.mark.parametrize(("kind", "millions"), [("unet_256", 54.414), ("resnet_9blocks", 11.378)])
def test_published_sizes(kind: str, millions: float) -> None:
    """As the original prints them: facades (batch norm) and horse2zebra (instance norm)."""
    with torch.device("meta"):
        count = sum(p.numel() for p in made(kind).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=5e-4)


def test_dropout_stands_in_the_inner_wide_levels_alone() -> None:
    with torch.device("meta"):
        net = made("unet_256")
    places = {name for name, module in net.named_modules() if isinstance(module, nn.Dropout)}
    assert places == {f"model.model.1.model{'.3.model' * level}.7" for level in (3, 4, 5)}
    assert not any(isinstance(m, nn.Dropout) for m in UNet(scale=1, num_downs=5, num_feat=1).modules())
    assert not any(isinstance(m, nn.Dropout) for m in UNet(scale=1, dropout=False, num_feat=1).modules())


@pytest.mark.parametrize("kind", ["unet_128", "resnet_6blocks"])
def test_starts_as_published(kind: str) -> None:
    net = made(kind, num_feat=32, norm="batch")
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.weight.numel() > 5000:
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05), name
            assert abs(module.weight.mean().item()) < 1e-3
    scales = torch.cat([m.weight for m in net.modules() if isinstance(m, nn.BatchNorm2d)])
    assert (scales.mean().item(), scales.std().item()) == (pytest.approx(1, abs=2e-3), pytest.approx(0.02, rel=0.1))
    assert not any(p.any() for name, p in net.named_parameters() if name.endswith("bias"))


# ---- output ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*QUICK, *slow(sorted({*NETS} - {*QUICK}))])
@pytest.mark.parametrize("training", [True, False])
def test_output_and_gradients_equal_the_published_network(name: str, training: bool) -> None:
    """In training with a batch of two, whose statistics and dropout are shared; else as test.py --eval.

    In float64: in float32 rounding puts a feature on the other side of a ReLU, on one processor or another.
    """
    table, dropout = NETS[name]
    state = {key: value.double() if value.is_floating_point() else value for key, value in random_state(table).items()}
    net, x = like(name, test_time="eval").double(), torch.rand(2, 3, 128, 128, dtype=torch.float64)
    net.load_state_dict(state)
    wanted = {key: value.clone().requires_grad_(value.is_floating_point()) for key, value in state.items()}
    published = Published(wanted, dropout=dropout, mode="train" if training else "eval")
    torch.manual_seed(0)
    ours = net.train(training)(x)
    torch.manual_seed(0)
    theirs = published(x)
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)
    assert ours.std() > 0.05
    ours.square().mean().backward()
    theirs.square().mean().backward()
    for key, parameter in net.named_parameters():
        got, expected = parameter.grad, wanted[key].grad
        assert got is not None
        torch.testing.assert_close(got, expected, atol=1e-7 * expected.abs().max().item() + 1e-12, rtol=0)


@pytest.mark.parametrize("kind", ["unet_128", "resnet_6blocks"])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_gradient_reaches_the_first_layer_and_every_other(kind: str, norm: str) -> None:
    net = made(kind, num_feat=4, norm=norm, num_in_ch=1, num_out_ch=2)
    x = torch.rand(1, 1, 128, 256, requires_grad=True)
    out = net(x)
    assert out.shape == (1, 2, 128, 256)
    (out * torch.randn_like(out)).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    weights = [p for p in net.parameters() if p.ndim > 1]  # a bias before a norm counts for nothing
    assert all(p.grad is not None and p.grad.any() for p in weights)


@pytest.mark.parametrize("kind", ["unet_128", "resnet_6blocks"])
def test_autocast_does_not_round_the_image(kind: str) -> None:
    net, x = made(kind, num_feat=4, norm="batch", test_time="paper"), torch.rand(1, 3, 128, 128)
    for mode in (True, False):
        with torch.autocast("cpu", torch.bfloat16):
            out = run(net.train(mode), x)
        assert out.dtype == torch.float32
        assert (out.bfloat16() != out).float().mean() > 0.5


# ---- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize(("kind", "multiple"), [("unet_128", 128), ("resnet_6blocks", 4)])
def test_any_size_in_eval_mode(kind: str, multiple: int, norm: str) -> None:
    net = made(kind, num_feat=2, norm=norm).eval()
    assert (net.scale, net.multiple) == (1, multiple)
    for height, width in ((5, 9), (130, 66), (128, 257)):
        assert run(net, torch.rand(1, 3, height, width)).shape == (1, 3, height, width)
    x = torch.rand(1, 3, multiple * 3, multiple * 2)
    padded = F.pad(x[..., :-1, :-2], (0, 2, 0, 1), mode="reflect")
    assert torch.equal(run(net, x[..., :-1, :-2]), run(net, padded)[..., :-1, :-2])


@pytest.mark.parametrize(("kind", "multiple"), [("unet_128", 128), ("resnet_6blocks", 4)])
def test_training_pads_nothing(kind: str, multiple: int) -> None:
    net = made(kind, num_feat=2)
    with pytest.raises(ValueError, match=f"multiples of {multiple}"):
        net(torch.rand(1, 3, 130, 130))


@pytest.mark.parametrize("downs", [2, 3, 5, 6])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_any_power_of_two_down_to_one_pixel_in_the_middle(downs: int, norm: str) -> None:
    """Instance norm refuses a single pixel; at the bottleneck there is none, as published."""
    net, side = made("unet", num_feat=2, num_downs=downs, norm=norm), 2**downs
    seen = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, x, out: seen.append(tuple(out.shape[-2:])))
    assert net(torch.rand(1, 3, side, side)).shape == (1, 3, side, side)
    assert seen[-1] == (1, 1)
    assert len(seen) == downs


def test_what_cannot_be_built_is_one_sentence() -> None:
    (problem,) = registry.check({"type": "unet", "num_downs": 1}, "generators", TABLES)
    assert problem.message.startswith("Input should be greater than or equal to 2")
    (problem,) = registry.check({"type": "unet_256", "num_downs": 7}, "generators", TABLES)
    assert "unet_256 takes no 'num_downs'. It takes num_in_ch=3" in problem.message
    assert registry.check({"type": "resnet_9blocks", "norm": "batch", "dropout": True}, "generators", TABLES) == []
    for kind in ("unet_256", "resnet_6blocks"):
        with pytest.raises(UserError, match="does not upscale, but scale is 4; set scale: 1"):
            made(kind, scale=4, num_feat=1)


# ---- test time -------------------------------------------------------------------------------------------------------


@every_net
def test_paper_at_test_time_is_what_the_published_test_does(name: str) -> None:
    """Dropout and batch norm as in training, yet each image by itself and nothing of the net changes."""
    table, dropout = NETS[name]
    state, net, x = random_state(table), like(name), torch.rand(1, 3, 128, 128)
    net.load_state_dict(state)
    for copied in (net.eval(), copy.deepcopy(net)):
        torch.testing.assert_close(run(copied, x), run(Published(state, dropout=dropout), x), atol=2e-5, rtol=0)
    assert torch.equal(run(net, x), run(copy.deepcopy(net).train(), x))
    assert net.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    if not dropout:
        pair = torch.cat([x, torch.rand_like(x)])
        torch.testing.assert_close(run(net, pair)[:1], run(net, x), atol=1e-5, rtol=0)
    with torch.no_grad():
        assert torch.equal(net(x), net(x)) != dropout


def test_test_time_may_be_overridden() -> None:
    net, x = made("unet_128", num_feat=2).eval(), torch.rand(1, 3, 128, 128)
    paper = run(net, x)
    net.test_time = "eval"
    plain = run(net, x)
    assert net.test_time == "eval"
    assert not torch.equal(plain, paper)
    assert torch.equal(plain, net(x))
    net.test_time = "paper"
    assert torch.equal(run(copy.deepcopy(net), x), paper)


def test_training_updates_the_running_statistics_as_ever() -> None:
    net = made("resnet_6blocks", num_feat=2, norm="batch")
    run(net, torch.rand(2, 3, 32, 32))
    run(net.eval(), torch.rand(2, 3, 32, 32))
    assert net.model[2].num_batches_tracked == 1
    assert net.model[2].running_mean.any()


# ---- files -----------------------------------------------------------------------------------------------------------


@every_net
@pytest.mark.parametrize("zipped", [True, False])
def test_published_files_open_and_give_equal_output(name: str, zipped: bool, tmp_path: Path) -> None:
    table, dropout = NETS[name]
    state, file, x = random_state(table), tmp_path / "latest_net_G.pth", torch.rand(1, 3, 128, 128)
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    model = open_model(file)
    assert (model.scale, model.channels, model.out_channels, model.colours) == (1, 3, 3, "rgb")
    assert not model.net.training
    assert model.name == ("UNet 2/7" if name.startswith("unet") else "ResNet 4/6")
    torch.testing.assert_close(run(model.net, x), run(Published(state, dropout=dropout), x), atol=2e-5, rtol=0)
    model.net.test_time = "eval"
    published = Published(state, dropout=dropout, mode="eval")
    torch.testing.assert_close(run(model.net, x), run(published, x), atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    "table",
    [
        unet_shapes(depth=8, ngf=1, norm="batch", ins=1, outs=2),
        unet_shapes(depth=5, ngf=3, norm="instance", ins=1, outs=2),
        resnet_shapes(depth=9, ngf=2, norm="instance", dropout=False, ins=1, outs=2),
    ],
)
def test_sizes_are_read_from_shapes(table: Shapes, tmp_path: Path) -> None:
    state, x = random_state(table), torch.rand(1, 1, 256, 256)
    torch.save(state, tmp_path / "n.pth")
    model = open_model(tmp_path / "n.pth")
    assert (model.channels, model.out_channels) == (1, 2)
    published = Published(state, dropout="model.model.1.model.2.weight" in state)
    torch.testing.assert_close(run(model.net, x), run(published, x), atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["unet instance", "resnet instance", "resnet instance dropout"])
def test_old_files_with_statistics_of_instance_norms(name: str, tmp_path: Path) -> None:
    net, file, x = like(name), tmp_path / "horse2zebra.pth", torch.rand(1, 3, 128, 128)
    old = dict(net.state_dict())
    for place, module in net.named_modules():
        if isinstance(module, nn.InstanceNorm2d):
            mean = torch.randn(module.num_features)
            old |= {f"{place}.running_mean": mean, f"{place}.running_var": mean.abs()}
            old |= {f"{place}.num_batches_tracked": torch.tensor(3)}
    torch.save(old, file)
    assert torch.equal(run(open_model(file).net, x), run(net.eval(), x))
    other = like(name)
    assert load_into(other, file) == []
    assert torch.equal(run(other.eval(), x), run(net, x))


def test_fine_tuning_from_a_published_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    torch.save(random_state(NETS["resnet batch"][0]), tmp_path / "n.pth")
    other = like("resnet batch")
    assert load_into(other, tmp_path / "n.pth") == []
    with pytest.raises(UserError, match=r"does not fit ResNet: 'model.1.bias' is missing"):
        load_into(like("resnet instance"), tmp_path / "n.pth")


@pytest.mark.parametrize("kind", ["unet", "resnet_9blocks"])
def test_ours_opens_by_metadata_with_other_channels(kind: str, tmp_path: Path) -> None:
    kwargs = {"num_feat": 2, "num_in_ch": 1, "num_out_ch": 2, "test_time": "eval"}
    net, x = made(kind, **kwargs), torch.rand(1, 1, 256, 256)
    metadata = architecture(kind, kwargs | {"scale": 1}) | {"colours": "lab"}
    save_safetensors(tmp_path / "n.safetensors", net.state_dict(), metadata)
    model = open_model(tmp_path / "n.safetensors", expect_scale=1, direction="b_to_a")
    assert (model.channels, model.out_channels, model.colours, model.multiple) == (1, 2, "lab", net.multiple)
    assert torch.equal(run(model.net, x), run(net.eval(), x))


@pytest.mark.parametrize("metadata", [True, False])
def test_both_directions_in_one_file(metadata: bool, tmp_path: Path) -> None:
    kwargs = {"scale": 1, "num_feat": 2, "num_in_ch": 1, "num_out_ch": 3}
    there, back = (made("resnet_6blocks", num_feat=2, num_in_ch=i, num_out_ch=o) for i, o in ((1, 3), (3, 1)))
    pair = nn.ModuleDict({"a_to_b": there, "b_to_a": back})
    words = architecture("resnet_6blocks", kwargs) if metadata else {}
    save_safetensors(tmp_path / "n.safetensors", pair.state_dict(), words)
    for direction, channels in (("a_to_b", (1, 3)), ("b_to_a", (3, 1)), (None, (1, 3))):
        model = open_model(tmp_path / "n.safetensors", direction=direction)
        x = torch.rand(1, channels[0], 32, 32)
        assert (model.channels, model.out_channels) == channels
        assert torch.equal(run(model.net, x), run(pair[direction or "a_to_b"].eval(), x))


@pytest.mark.parametrize("batch", [1, 2])
def test_instance_norm_has_the_same_gradient_in_both_layouts(batch: int) -> None:
    """torch's own, by way of batch norm, has not: at one image in channels_last its backward on a CPU is wrong."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), norm_layer("instance", 8), torch.nn.Conv2d(8, 3, 3))
    image, gradients = torch.rand(batch, 3, 16, 16), []
    for layout in (torch.contiguous_format, torch.channels_last):
        net.zero_grad()
        net.to(memory_format=layout)(image.contiguous(memory_format=layout)).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in net.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-3)
