"""Model files as users have them: recognized by content, opened where that is safe, else refused in one sentence."""

import argparse
import io
import os
import sys
import zipfile
from pathlib import Path
from typing import Annotated, Any

import pytest
import spandrel
import torch
from pydantic import create_model
from spandrel.architectures.Compact import Compact
from torch import Tensor, nn

from sr.config.registry import PartOf, Table, check, fill
from sr.core.errors import UserError
from sr.nets.io.load import architecture, load_into, open_model
from sr.nets.io.state_dicts import load_weights, save_pth, save_safetensors
from sr.nets.patchgan import PatchGAN
from sr.nets.unet_sn import UNetDiscriminatorSN

State = dict[str, Tensor]


def prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return Compact(num_feat=8, num_conv=2, upscale=2)


@pytest.fixture
def state(net: nn.Module) -> State:
    return net.state_dict()


OTHER = {"discriminator.conv.weight": torch.zeros(3), "loss.vgg.weight": torch.zeros(3)}
WRAPPINGS = {
    "compiled": lambda s: {"params": prefixed("_orig_mod.", s)},
    "compiled inside": lambda s: {key.replace("body.", "body._orig_mod."): value for key, value in s.items()},
    "data parallel and compiled": lambda s: prefixed("module._orig_mod.", s),
    "fsdp": lambda s: prefixed("_fsdp_wrapped_module.", s),
    "mmagic": lambda s: {"meta": {"iter": 1}, "state_dict": prefixed("generator.", s) | OTHER},
    "mmagic with averaged weights": lambda s: {
        "state_dict": {f"generator.{key}": value + 1 for key, value in s.items()} | prefixed("generator_ema.", s)
    },
    "mmagic, data parallel": lambda s: prefixed("module.generator.", s),
    "lightning": lambda s: {"state_dict": prefixed("model.", s) | OTHER, "callbacks": {}, "epoch": 3},
    "lightning and compiled": lambda s: {"state_dict": prefixed("net_g._orig_mod.", s)},
    "lightning with arguments": lambda s: {
        "state_dict": prefixed("net.", s),
        "hyper_parameters": argparse.Namespace(root=Path("data"), rate=torch.tensor(1.0).numpy()),
    },
    "nested": lambda s: {"epoch": 1, "model": {"state_dict": s}},
    "a trainer of ours and theirs": lambda s: {"netG": s, "netD": OTHER, "step": 4},
    "deepspeed": lambda s: {"module": s, "optimizer": None},
    "empty averaged weights": lambda s: {"params": s, "params_ema": {}},
    "counters between the weights": lambda s: s | {"step": 3, "name": "x2"},
    "half": lambda s: {"params": {key: value.half() for key, value in s.items()}},
    "bfloat16": lambda s: {"params": {key: value.bfloat16() for key, value in s.items()}},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_weights_in_wrappings_open(tmp_path: Path, net: nn.Module, state: State, wrapping: str, legacy: bool) -> None:
    torch.save(WRAPPINGS[wrapping](state), tmp_path / "n.pth", _use_new_zipfile_serialization=not legacy)
    model = open_model(tmp_path / "n.pth")
    with torch.no_grad():
        x = torch.rand(1, 3, 9, 11)
        rounded = wrapping in ("half", "bfloat16")
        torch.testing.assert_close(model.net(x), net(x).clamp(0, 1), atol=2e-2 if rounded else 1e-6, rtol=0)


def test_the_content_counts_not_the_suffix(tmp_path: Path, state: State) -> None:
    save_safetensors(tmp_path / "safetensors.pth", state, {"a": "b"})
    save_pth(tmp_path / "pth.safetensors", state)
    save_pth(tmp_path / "pytorch_model.bin", state)
    save_pth(tmp_path / "none", state)
    for name in ("safetensors.pth", "pth.safetensors", "pytorch_model.bin", "none"):
        found, metadata = load_weights(tmp_path / name)
        assert found.keys() == state.keys(), name
        assert metadata == ({"a": "b"} if name == "safetensors.pth" else {})


def test_a_discriminator_out_of_a_whole_trainer(tmp_path: Path) -> None:
    net = PatchGAN(num_feat=4)
    whole = prefixed("discriminator.", net.state_dict()) | {"generator.a": torch.zeros(1)}
    torch.save({"state_dict": whole}, tmp_path / "n.pth")
    assert load_into(PatchGAN(num_feat=4), tmp_path / "n.pth", player="discriminator") == []


def zipped(**files: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


FILES = {
    "model.onnx": (b"\x08\x08\x12\x07pytorch" + bytes(100), "an ONNX model"),
    "onnx_called.pth": (b"\x08\x0e:3\n\x0c\n\x01x\x12\x01y", "an ONNX model"),
    "ncnn.param": (b"7767517\n3 3\nInput in 0 1 data\n", "an ncnn model"),
    "ncnn.bin": (b"\x47\x6b\x30\x01" + bytes(range(256)), "ncnn"),
    "page.pth": (b"\n<!DOCTYPE html><html>404\x1b[31m</html>", "a web page"),
    "page.safetensors": (b"\xef\xbb\xbf<html lang=en>", "a web page"),
    "lfs.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 67040989\n", "git lfs pull"),
    "lfs.safetensors": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git-lfs pointer"),
    "denied.xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML file"),
    "error.pth": (b'{"error": "not found"}', "a JSON file"),
    "notes.pth": (b"see \x1b[31mhttps://example.org", "a text file"),
    "zeros.pth": (bytes(5000), "only zero bytes"),
    "empty.pth": (b"", "is empty"),
    "keras.h5": (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
    "array.npy": (b"\x93NUMPY\x01\x00", "a NumPy array"),
    "arrays.pth": (zipped(**{"a.npy": b"x"}), "a NumPy archive"),
    "many.zip": (zipped(**{"a.pth": b"x"}), "a ZIP archive"),
    "packed.pth.gz": (b"\x1f\x8b\x08" + bytes(50), "a gzip archive"),
    "image.pth": (b"\x89PNG\r\n\x1a\n" + bytes(50), "a PNG image"),
    "engine.pth": (b"ftrt" + bytes(50), "TensorRT"),
    "graph.tflite": (bytes([28, 0, 0, 0]) + b"TFL3" + bytes(50), "TensorFlow Lite"),
    "noise.pth": (bytes(range(7, 256)), "no format that holds weights"),
    "unfinished.crdownload": (bytes(range(7, 256)), "an unfinished download"),
}


@pytest.mark.parametrize("name", FILES)
def test_other_files_are_named_in_one_sentence(tmp_path: Path, name: str) -> None:
    content, words = FILES[name]
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, words)


def refused(path: Path, words: str) -> None:
    with pytest.raises(UserError, match=path.name) as error:
        open_model(path)
    message = str(error.value)
    assert words in message
    assert message.isprintable()
    assert "weights_only" not in message
    assert ";" in message  # what it is; what to do


def test_programs_are_named_and_never_run(tmp_path: Path, state: State) -> None:
    torch.save(nn.Sequential(nn.Conv2d(3, 3, 3)), tmp_path / "module.pth")
    torch.save({"model": nn.Conv2d(3, 3, 3)}, tmp_path / "inside.pth")
    torch.save(nn.Conv2d(3, 3, 3), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("module.pth", "inside.pth", "old.pth"):
        refused(tmp_path / name, "torch.nn.modules")
        refused(tmp_path / name, "save net.state_dict()")
    torch.jit.script(nn.Sequential(nn.Conv2d(3, 3, 3))).save(str(tmp_path / "script.pt"))
    refused(tmp_path / "script.pt", "a TorchScript archive")
    torch.export.save(torch.export.export(nn.ReLU(), (torch.zeros(1),)), tmp_path / "program.pt2")
    refused(tmp_path / "program.pt2", "a program of torch.export")
    refused(tmp_path, "is a folder")
    refused(tmp_path / "absent.pth", "no such file")


def test_what_holds_no_generator_is_named(tmp_path: Path, state: State) -> None:
    torch.save({"epoch": 1, "iter": 5, "optimizers": [{"state": {}}], "schedulers": []}, tmp_path / "5.state")
    refused(tmp_path / "5.state", "a training state")
    torch.save({"params": {}, "params_ema": {}}, tmp_path / "none.pth")
    refused(tmp_path / "none.pth", "no state dict")
    odd = "a\x1b[31m\nb"
    torch.save({odd: torch.zeros(3)}, tmp_path / "odd.pth")
    refused(tmp_path / "odd.pth", "is no generator")
    with pytest.raises(UserError) as error:
        load_into(Compact(num_feat=8, num_conv=2, upscale=2), tmp_path / "odd.pth")
    assert str(error.value).isprintable()
    torch.save(UNetDiscriminatorSN(num_feat=4).state_dict(), tmp_path / "net_d.pth")
    refused(tmp_path / "net_d.pth", "is a discriminator; give the generator")
    whole = io.BytesIO()
    torch.save(state, whole)
    (tmp_path / "cut.pth").write_bytes(whole.getvalue()[:-200])
    refused(tmp_path / "cut.pth", "damaged or cut short")


def test_plugins_open_where_spandrel_recognizes_the_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    kwargs = {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 8, "upscale": 2}
    net = spandrel.architectures.SPAN.SPAN(**kwargs, img_range=1.0).eval()  # a range that the weights do not show
    x = torch.rand(1, 3, 9, 11)
    for kind, more in (("spandrel.SPAN", {"img_range": 1.0}), ("nowhere.to_be.Imported", {})):
        metadata = architecture(kind, kwargs | more | {"scale": 2})
        save_safetensors(tmp_path / "n.safetensors", net.state_dict(), metadata)
        model = open_model(tmp_path / "n.safetensors")
        assert (model.scale, model.channels) == (2, 3)
        assert model.net(x).shape == (1, 3, 18, 22)
        if more:
            with torch.no_grad():
                torch.testing.assert_close(model.net(x), net(x))
    for kind, scale in (("spandrel.SPAN", 4), ("spandrel.util.Any", 2), ("nowhere.else.X", 3)):
        metadata = architecture(kind, kwargs | {"scale": scale, "feature_channels": 4})
        save_safetensors(tmp_path / "n.safetensors", net.state_dict(), metadata)
        refused(tmp_path / "n.safetensors", "do not go together")
    save_safetensors(tmp_path / "n.safetensors", {"a": torch.zeros(1)}, architecture("my.Net", {"scale": 2}))
    refused(tmp_path / "n.safetensors", "its network, my.Net, is not part of sr")


PLUGIN = """
from torch import nn
class Tiny(nn.Sequential):
    def __init__(self, *, scale, width=4):
        super().__init__(nn.Conv2d(3, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))
"""


def test_plugins_are_imported_only_where_the_user_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_net_17.py").write_text(PLUGIN)
    monkeypatch.setattr(sys, "path", [*sys.path])
    file = tmp_path / "n.safetensors"
    state = {"0.weight": torch.rand(12, 3, 3, 3), "0.bias": torch.rand(12)}
    save_safetensors(file, state, architecture("own_net_17.Tiny", {"scale": 2, "width": 8}))
    refused(file, "its network, own_net_17.Tiny, is not part of sr")
    assert "own_net_17" not in sys.modules
    for given in (str(tmp_path / "own_net_17.py"), "own_net_17", "own_net_17.Tiny"):
        model = open_model(file, plugins=["other", given])
        assert model.net(torch.rand(1, 3, 5, 6)).shape == (1, 3, 10, 12)
    for wrong in ("own_net_1", str(tmp_path / "absent.py")):
        with pytest.raises(UserError, match=r"--plugins"):
            open_model(file, plugins=[wrong])


def test_defaults_that_are_code_do_not_break_the_check() -> None:
    part = {"type": "spandrel.architectures.DAT.DAT", "upscale": 2}
    tables = {"generators": Table({})}
    assert check(part, "generators", tables) == []
    fill(create_model("Options", generator=(Annotated[Any, PartOf("generators")], ...)), {"generator": part}, tables)
    assert part["img_size"] == 64
    assert "norm_layer" not in part


def test_a_named_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "a.pth")
    with pytest.raises(UserError, match="is a pipe, socket or device; give a model file"):
        open_model(tmp_path / "a.pth")
