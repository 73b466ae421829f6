"""Every architecture of spandrel: trains, and its file gives the same output in sr and in spandrel."""

from pathlib import Path

import architectures
import pytest
import torch

from sr.config.json_schema import schema
from sr.config.options import Options
from sr.config.registry import find
from sr.core.errors import UserError
from sr.inference.export import export
from sr.nets.io.load import architecture
from sr.nets.io.state_dicts import save_safetensors
from sr.nets.spandrel_archs import ARCHITECTURES, spandrel_arch
from sr.nets.spandrel_net import spandrel_net
from sr.train.builder import TABLES

FAST = ("SPAN", "RealPLKSR", "DAT", "RCAN")
GUESSED = {"ATD", "GRL"}
"""spandrel opens the tiny networks of these with other hyper-parameters, or not at all."""


def works(name: str, scale: int, folder: Path) -> None:
    found = architectures.examine(name, scale, folder, onnx=False)
    assert (found.trains, found.upscales) == ("", "")
    if name not in GUESSED:
        assert found.spandrel == ""


@pytest.mark.parametrize("name", FAST)
def test_usual_ones_train_and_open_again(name: str, tmp_path: Path) -> None:
    works(name, 4, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES])
def test_all_train_and_open_again(name: str, tmp_path: Path) -> None:
    known = architectures.scales(name)
    assert known
    for scale in {2, 4}.intersection(known) or known[:1]:
        works(name, scale, tmp_path)


def test_a_file_of_span_is_trained_further(tmp_path: Path) -> None:
    save_safetensors(tmp_path / "span.safetensors", architectures.make("SPAN", 2).state_dict(), {})
    net = spandrel_net(file=str(tmp_path / "span.safetensors"), scale=2)
    net(torch.rand(1, 3, 16, 16)).mean().backward()
    assert all(parameter.grad is not None for parameter in net.parameters() if parameter.requires_grad)
    frozen = {key.split(".")[-2] for key, parameter in net.named_parameters() if not parameter.requires_grad}
    assert frozen == {"eval_conv"}


def test_a_choice_of_experts_is_not_frozen_into_onnx(tmp_path: Path) -> None:
    kwargs = {key: value for key, value in architectures.part("SeemoRe").items() if key != "type"}
    file = tmp_path / "seemore.safetensors"
    made = architecture("spandrel.SeemoRe", kwargs | {"scale": 2})
    save_safetensors(file, architectures.make("SeemoRe", 2).state_dict(), made)
    with pytest.raises(UserError, match=r"no ONNX form \(the image decides which layers run\); export .safetensors"):
        export(file, tmp_path / "seemore.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES])
@torch.no_grad()
def test_a_batch_gives_what_its_images_give_alone(name: str) -> None:
    torch.manual_seed(0)
    net, images = architectures.make(name, architectures.scales(name)[0]).eval(), torch.rand(3, 3, 40, 48)
    alone = torch.cat([net(image[None]) for image in images])
    torch.testing.assert_close(net(images), alone, atol=1e-4, rtol=0)


def test_wrong_scales_and_names_are_refused() -> None:
    with pytest.raises(UserError, match=r"spandrel.SwiftSRGAN upscales by 1 or 2 or 4 or 8 only, but scale is 3"):
        spandrel_arch("SwiftSRGAN")(scale=3)
    with pytest.raises(UserError, match=r"spandrel.NAFNet does not upscale, but scale is 2; set scale: 1"):
        spandrel_arch("NAFNet")(scale=2)
    with pytest.raises(UserError, match=r"spandrel.SPAM does not exist.*Did you mean 'SPAN'"):
        spandrel_arch("SPAM")
    with pytest.raises(UserError, match=r"Did you mean 'SPAN'"):
        spandrel_arch("span")
    with pytest.raises(UserError, match=r"no 'SPAN' here.*Did you mean 'spandrel.SPAN'"):
        find(TABLES["generators"], "SPAN")
    with pytest.raises(UserError, match=r"spandrel.LaMa is not supported: it needs a mask"):
        spandrel_arch("LaMa")


def test_the_schema_lists_all() -> None:
    rows = schema(Options, TABLES)["$defs"]["part.generators"]["anyOf"]
    rows = [row["properties"] for row in rows if "properties" in row]
    listed = {row["type"].get("const"): row for row in rows}
    assert {f"spandrel.{name}" for name in ARCHITECTURES} < set(listed)
    assert listed["spandrel.HAT"]["window_size"]["default"] == 16
    assert "norm_layer" not in listed["spandrel.HAT"]
