"""`sr export`: what it writes opens in other programs and computes the same."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import spandrel
import torch
from spandrel.architectures.Compact import Compact
from torch import Tensor, nn

from sr.cli import main
from sr.inference import export
from sr.nets import GENERATORS
from sr.nets.io.load import Model, architecture, open_model
from sr.nets.io.state_dicts import load_weights, save_pth, save_safetensors
from tests.helpers.models import SMALL, save, saved
from tests.helpers.tiers import slow

needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxslim")),
    reason="ONNX is the extra sr-train[export]",
)

needs_ncnn = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("pnnx", "ncnn")), reason="ncnn is the extra sr-train[ncnn]"
)


def run(path: Path, image: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"image": image.numpy()})[0])


def metadata(path: Path) -> dict[str, str]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: dict[str, str] = session.get_modelmeta().custom_metadata_map
    return found


def expected(net: nn.Module, image: Tensor) -> Tensor:
    with torch.no_grad():
        out: Tensor = net(image)
    return out


def exported(tmp_path: Path, name: str, *args: str) -> Path:
    target = tmp_path / "made" / name
    assert main(["export", str(tmp_path / "m.safetensors"), "-o", str(target), *args]) == 0
    assert os.listdir(target.parent) == [name]
    return target


@needs_onnx
@pytest.mark.parametrize(("kind", "scale"), [*((kind, 4) for kind in SMALL), *slow([("rrdbnet", 1), ("rrdbnet", 2)])])
def test_onnx_of_every_generator_at_sizes_it_was_not_traced_at(tmp_path, capsys, kind, scale):
    net = saved(tmp_path / "m.safetensors", kind, scale=scale)
    file = exported(tmp_path, "net.onnx")
    told = capsys.readouterr().out
    assert f"{kind} x{scale}, opset 17, sides of any length, at most " in told
    assert metadata(file)["scale"] == str(scale)
    assert metadata(file)["multiple"] == "1"
    for count, height, width in [(1, 21, 34), (3, 40, 16)]:
        image = torch.rand(count, 3, height, width)
        made = run(file, image)
        assert made.std() > 1e-3
        torch.testing.assert_close(made, expected(net, image), atol=1e-4, rtol=0)


@needs_onnx
def test_onnx_in_half_precision(tmp_path, capsys):
    net = saved(tmp_path / "m.safetensors", "compact", scale=4)
    whole, half = exported(tmp_path, "net.onnx"), tmp_path / "half.onnx"
    assert main(["export", str(tmp_path / "m.safetensors"), "-o", str(half), "--half"]) == 0
    assert "opset 17, float16, sides of any length" in capsys.readouterr().out
    assert half.stat().st_size < 0.8 * whole.stat().st_size
    image = torch.rand(1, 3, 21, 34)
    assert 0 < (run(half, image) - expected(net, image)).abs().max() < 4 / 255
    assert main(["export", str(tmp_path / "m.safetensors"), "-o", str(tmp_path / "m.pth"), "--half"]) == 2


@needs_onnx
@pytest.mark.parametrize(("kind", "kwargs"), [("unet", {"num_downs": 6, "norm": "batch", "dropout": True}),
                                              ("resnet", {"num_block": 1, "num_in_ch": 1})])  # fmt: skip
def test_onnx_of_translators(tmp_path, capsys, kind, kwargs):
    (net,) = save(tmp_path / "m.safetensors", kind, **kwargs)
    file = exported(tmp_path, "net.onnx")
    told = capsys.readouterr().out
    multiple = {"unet": 64, "resnet": 4}[kind]
    assert f"sides a multiple of {multiple}" in told
    assert metadata(file)["multiple"] == str(multiple)
    assert ("its dropout is removed" in told) == (kind == "unet")
    image = torch.rand(2, kwargs.get("num_in_ch", 3), 64, 192)
    assert torch.equal(run(file, image), run(file, image))
    export._without_dropout(net)  # what remains of test time: norms by the image itself
    torch.testing.assert_close(run(file, image), expected(net, image), atol=1e-4, rtol=0)


@needs_onnx
def test_an_onnx_file_that_would_differ_gets_no_name(tmp_path, capsys, monkeypatch):
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + x.shape[-1] if int(x.shape[-1]) > 40 else x  # traced at 33: the other branch is lost

    monkeypatch.setattr(export, "open_model", lambda *_, **__: Model(Branches(), 1, 1, "odd"))
    (tmp_path / "m.safetensors").touch()
    assert main(["export", str(tmp_path / "m.safetensors"), "-o", str(tmp_path / "net.onnx")]) == 0
    wide = [(32, 33), (64, 66)]
    monkeypatch.setattr(export, "_sizes", lambda multiple: wide)
    assert main(["export", str(tmp_path / "m.safetensors"), "-o", str(tmp_path / "other.onnx")]) == 2
    assert "differs from PyTorch by 6.6e+01 (1.0e-04 is allowed)" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["m.safetensors", "net.onnx"]


@needs_onnx
def test_half_precision_does_not_hide_a_graph_that_is_wrong_at_other_sizes(tmp_path, capsys, monkeypatch):
    class Slightly(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 0.005 if int(x.shape[-1]) > 33 else x + 0  # traced at 33

    monkeypatch.setattr(export, "open_model", lambda *_, **__: Model(Slightly(), 1, 1, "odd"))
    assert main(["export", "m.safetensors", "-o", str(tmp_path / "net.onnx"), "--half"]) == 2
    assert "differs from PyTorch by 5.0e-03 (1.0e-04 is allowed)" in capsys.readouterr().err


@needs_onnx
def test_what_has_no_onnx_form_is_one_sentence(tmp_path, capfd, monkeypatch):
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.svd(x)[0]

    monkeypatch.setattr(export, "open_model", lambda *_, **__: Model(Odd(), 1, 1, "odd"))
    assert main(["export", "m.safetensors", "-o", str(tmp_path / "net.onnx")]) == 2
    out, error = capfd.readouterr()
    assert out == ""  # torch prints its graph
    assert "odd has no ONNX form" in error
    assert error.count("\n") == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("name", "extra"), [("net.onnx", "export"), ("net.param", "ncnn")])
def test_graphs_without_their_packages(tmp_path, capsys, monkeypatch, name, extra):
    saved(tmp_path / "m.safetensors")
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    assert main(["export", str(tmp_path / "m.safetensors"), "-o", str(tmp_path / name)]) == 2
    assert f"not installed here; run: pip install 'sr-train[{extra}]'" in capsys.readouterr().err


@needs_ncnn
@pytest.mark.parametrize(("kind", "half"), [("compact", False), *slow([("compact", True), ("rrdbnet", False)])])
def test_ncnn_at_sizes_it_was_not_traced_at(tmp_path, capsys, kind, half):
    net = saved(tmp_path / "m.safetensors", kind, scale=4)
    target = tmp_path / "made" / "net.param"
    assert main(["export", str(tmp_path / "m.safetensors"), "-o", str(target), *["--half"] * half]) == 0
    printed = capsys.readouterr().out
    assert f"{kind} x4, with net.bin, blobs data and output, {'float16, ' * half}sides of any length" in printed
    assert sorted(os.listdir(target.parent)) == ["net.bin", "net.param"]
    image = torch.rand(1, 3, 21, 34)
    made = export.export_ncnn.run(target, target.with_suffix(".bin"), image)
    assert made.std() > 1e-3
    torch.testing.assert_close(made, expected(net, image), atol=export.HALF_TOLERANCE if half else 1e-4, rtol=0)


@needs_ncnn
def test_what_ncnn_lacks_is_one_sentence(tmp_path, capsys):
    saved(tmp_path / "m.safetensors", "rrdbnet", scale=2)  # pads by an amount that depends on the size
    assert main(["export", str(tmp_path / "m.safetensors"), "-o", str(tmp_path / "net.param")]) == 2
    error = capsys.readouterr().err
    assert "rrdbnet x2 has no ncnn form (ncnn lacks F.pad, pnnx.Expression); export .onnx or .safetensors" in error
    assert error.count("\n") == 1
    assert os.listdir(tmp_path) == ["m.safetensors"]


@pytest.mark.parametrize("layout", ["published", "old-esrgan"])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("scale", [2, 4])
def test_weights_open_in_spandrel(tmp_path, scale, ending, layout):
    net = saved(tmp_path / "m.safetensors", scale=scale, num_grow_ch=32)  # spandrel takes 32 for granted
    file = exported(tmp_path, f"net.{ending}", "--layout", layout)
    theirs = spandrel.ModelLoader().load_from_file(file)
    assert (theirs.architecture.id, theirs.scale) == ("ESRGAN", scale)
    assert ("conv_first.weight" in load_weights(file)[0]) == (layout == "published")
    image = torch.rand(1, 3, 12, 16)
    torch.testing.assert_close(theirs(image), expected(net, image).clamp(0, 1), atol=1e-5, rtol=0)


@pytest.mark.skipif(find_spec("basicsr") is None, reason="the reference is the extra sr-train[basicsr]")
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_pth_is_what_basicsr_loads(tmp_path, scale):
    from sr.nets.io.basicsr import basicsr

    net = saved(tmp_path / "m.safetensors", scale=scale)
    content = torch.load(exported(tmp_path, "net.pth"), weights_only=True)
    theirs = basicsr("archs.rrdbnet_arch").RRDBNet(num_in_ch=3, num_out_ch=3, scale=scale, **SMALL["rrdbnet"])
    theirs.load_state_dict(content["params_ema"], strict=True)
    image = torch.rand(1, 3, 12, 16)
    torch.testing.assert_close(expected(theirs, image), expected(net, image), atol=1e-5, rtol=0)


def test_what_spandrel_runs_keeps_the_names_of_its_file(tmp_path):
    net = Compact(num_feat=8, num_conv=2, upscale=4)
    save_pth(tmp_path / "m.safetensors.pth", net.state_dict(), key="params")
    assert main(["export", str(tmp_path / "m.safetensors.pth"), "-o", str(tmp_path / "net.safetensors")]) == 0
    theirs = spandrel.ModelLoader().load_from_file(tmp_path / "net.safetensors")
    image = torch.rand(1, 3, 12, 16)
    torch.testing.assert_close(theirs(image), expected(net, image).clamp(0, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("direction", ["a_to_b", "b_to_a"])
@pytest.mark.parametrize("name", ["net.pth", "net.safetensors", pytest.param("net.onnx", marks=needs_onnx)])
def test_one_direction_of_two(tmp_path, name, direction):
    nets = save(tmp_path / "m.safetensors", "resnet", prefixes=("a_to_b.", "b_to_a."), num_block=1)
    file = exported(tmp_path, name, "--direction", direction)
    image = torch.rand(1, 3, 16, 24)
    wanted = expected(nets[direction == "b_to_a"], image)
    assert not torch.allclose(wanted, expected(nets[direction == "a_to_b"], image), atol=1e-2)
    made = run(file, image) if name == "net.onnx" else expected(open_model(file).net, image)
    torch.testing.assert_close(made, wanted, atol=1e-4, rtol=0)


def test_a_direction_of_other_channels_keeps_its_own(tmp_path):
    kwargs = {"scale": 1, "num_feat": 8, "num_block": 1}
    there = GENERATORS["resnet"](num_in_ch=1, num_out_ch=3, **kwargs)
    back = GENERATORS["resnet"](num_in_ch=3, num_out_ch=1, **kwargs)
    state = {f"a_to_b.{k}": v for k, v in there.state_dict().items()}
    state |= {f"b_to_a.{k}": v for k, v in back.state_dict().items()}
    save_safetensors(tmp_path / "m.safetensors", state, architecture("resnet", {**kwargs, "num_in_ch": 1}))
    model = open_model(exported(tmp_path, "net.safetensors", "--direction", "b_to_a"))
    assert (model.channels, model.out_channels) == (3, 1)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["-o", "net.pt2"], "cannot write '.pt2'; end the name in one of .onnx, .param, .pth, .safetensors"),
        (["-o", "m.safetensors"], "is the model itself"),
        (["-o", "net.onnx", "--layout", "old-esrgan"], "leave it out"),
        (["-o", "net.pth", "--scale", "2"], "upscales by 4, not 2"),
        (["-o", "folder.pth"], "is a folder"),
    ],
)
def test_user_errors_are_one_sentence(tmp_path, capsys, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "m.safetensors")
    before = (tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "folder.pth").mkdir()
    assert main(["export", "m.safetensors", *args]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert (tmp_path / "m.safetensors").read_bytes() == before


def test_the_old_layout_is_of_rrdbnet_alone(tmp_path, capsys):
    saved(tmp_path / "m.safetensors", "edsr")
    args = ["export", str(tmp_path / "m.safetensors"), "-o", str(tmp_path / "net.pth"), "--layout", "old-esrgan"]
    assert main(args) == 2
    assert "weights of an RRDBNet" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["m.safetensors"]
