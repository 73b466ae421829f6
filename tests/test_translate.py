"""Translating: any size, the model's own channels, one half of a pair, Lab at full precision, noise that repeats."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from sr.core.errors import UserError
from sr.data.source import resized as resized_pixels
from sr.images import ImageData, color, read_image, write_image
from sr.inference.translate import half, pick_translator, redraw, resized, trained_direction, translate
from sr.inference.upscale import through
from sr.nets import GENERATORS
from sr.nets.io.load import Model, architecture
from sr.nets.io.state_dicts import save_safetensors
from tests.helpers.models import save


def image(height: int = 33, width: int = 46, **kind: Any) -> ImageData:
    draws = torch.Generator().manual_seed(5)
    rgb = (torch.rand(3, height, width, generator=draws) * 255).round() / 255
    return ImageData(rgb=rgb[:1].expand(3, -1, -1) if kind.get("gray") else rgb, **kind)


class Half(nn.Module):
    """Any number of channels in, `count` planes at half their mean out."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1, keepdim=True).expand(-1, self.count, -1, -1) / 2


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 46), (3, 70), (1, 1)])
def test_any_size_comes_out_as_it_went_in(tmp_path, height, width):
    (net,) = save(tmp_path / "m.safetensors", "unet", num_downs=4, test_time="eval")
    model, _ = pick_translator(str(tmp_path / "m.safetensors"))
    given = image(height, width)
    made = redraw(given, model)
    assert made.rgb.shape == given.rgb.shape
    with torch.no_grad():
        torch.testing.assert_close(made.rgb, net(given.rgb[None])[0].clamp(0, 1), atol=1e-5, rtol=0)
    assert made.rgb.std() > 0.02 or height * width < 10


@pytest.mark.parametrize("alpha", [None, torch.full((1, 33, 46), 0.4)])
@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize(("channels", "out_channels"), [(1, 1), (1, 3), (3, 1), (3, 3), (4, 3), (3, 4), (2, 2)])
def test_images_become_what_the_model_makes(channels, out_channels, gray, alpha):
    given = image(gray=gray, alpha=alpha, bits=16, icc=b"profile")
    made = redraw(given, Model(Half(out_channels), 1, 1, "half", channels, out_channels))
    assert made.gray == (out_channels <= 2)
    assert made.bits == 16
    assert made.icc == (b"profile" if made.gray == gray else None)
    if out_channels in (1, 3):
        assert made.alpha is alpha
    else:
        assert torch.equal(made.alpha, made.rgb[:1])
    if channels == 3:
        torch.testing.assert_close(made.rgb[0], given.rgb.mean(0) / 2)
    if channels == 1:
        luma = np.asarray(Image.fromarray((given.rgb * 255).round().byte().permute(1, 2, 0).numpy()).convert("L")) / 255
        assert np.abs(made.rgb[0].numpy() * 2 - luma).max() < 0.6 / 255


def test_lab_keeps_the_lightness_of_the_image():
    class Colours(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[1] == 1
            return torch.stack([0.5 + 0 * x[:, 0], 0.52 + 0 * x[:, 0]], 1)

    deep = image(gray=True, bits=16)
    deep = ImageData(rgb=deep.rgb * 0.8 + 0.1003, gray=True, bits=16)  # between the steps of 8 bit, and no colour clips
    made = redraw(deep, Model(Colours(), 1, 1, "colours", 1, 2, "lab"))
    assert not made.gray
    assert made.bits == 16
    there, back = color.rgb_to_lab(deep.rgb), color.rgb_to_lab(made.rgb)
    assert (back[0] - there[0]).abs().max() < 0.05, "an 8-bit step of L is 0.39"
    assert back[1].abs().max() < 0.1
    assert (back[2] - 4.4).abs().max() < 0.1


def test_one_half_is_taken():
    given = image(20, 30, alpha=torch.linspace(0, 1, 30).expand(1, 20, 30))
    a, b = half(given, "a_to_b"), half(given, "b_to_a")
    assert torch.equal(torch.cat([a.rgb, b.rgb], 2), given.rgb)
    assert torch.equal(torch.cat([a.alpha, b.alpha], 2), given.alpha)
    with pytest.raises(UserError, match="31x20 cannot be split"):
        half(image(20, 31), "a_to_b")


def test_resized_as_training_and_validation_resize():
    given = image(33, 46, alpha=torch.rand(1, 33, 46))
    small = resized(given, 16)
    expected = resized_pixels((given.rgb * 255).round().byte().permute(1, 2, 0).numpy(), 16).transpose(2, 0, 1)
    assert np.abs(small.rgb.numpy() * 255 - expected).max() <= 1.01
    assert small.alpha.shape == (1, 16, 16)


def test_files_of_pairs_a_tree_and_a_failure(tmp_path):
    save(tmp_path / "m.safetensors", "resnet", num_block=1)
    model, _ = pick_translator(str(tmp_path / "m.safetensors"))
    for name in ("1.png", "deep/2.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(tmp_path / "in" / name, image(24, 48))
    write_image(tmp_path / "in" / "odd.png", image(24, 47))
    report = translate([tmp_path / "in"], tmp_path / "out", model, side="b_to_a", size=16, format="jpg")
    assert report.failed == [
        (tmp_path / "in" / "odd.png", "47x24 cannot be split into two equal halves; give images of even width")
    ]
    assert sorted(report.written) == [tmp_path / "out" / "1.jpg", tmp_path / "out" / "deep" / "2.jpg"]
    assert Image.open(tmp_path / "out" / "1.jpg").size == (16, 16)
    report = translate([tmp_path / "in" / "1.png"], tmp_path / "one.png", model, side="b_to_a")
    expected = redraw(half(image(24, 48), "b_to_a"), model).rgb
    torch.testing.assert_close(read_image(report.written[0]).rgb, expected, atol=0.51 / 255, rtol=0)


def test_what_is_there_is_kept_until_it_would_come_out_otherwise(tmp_path):
    save(tmp_path / "m.safetensors", "resnet", num_block=1, dropout=True)
    model, _ = pick_translator(str(tmp_path / "m.safetensors"))
    write_image(tmp_path / "in" / "1.png", image(24, 48))

    def written(**how) -> int:
        return len(translate([tmp_path / "in"], tmp_path / "out", model, **how).written)

    assert (written(), written()) == (1, 0)
    assert (written(side="a_to_b"), written(side="b_to_a"), written(side="b_to_a")) == (1, 1, 0)
    assert (written(size=16), written(size=20), written(tile=16, overlap=4)) == (1, 1, 1)
    model.net.test_time = "eval"
    assert (written(tile=16, overlap=4), written(tile=16, overlap=4)) == (1, 0)


def test_the_noise_of_an_image_is_its_own_and_repeats(tmp_path):
    save(tmp_path / "m.safetensors", "unet", num_downs=6, dropout=True, test_time="paper")
    model, _ = pick_translator(str(tmp_path / "m.safetensors"))
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "in" / name, image(64, 64))
    for out in ("once", "again"):
        translate([tmp_path / "in"], tmp_path / out, model)
        torch.rand(3)
    translate([tmp_path / "in" / "b.png"], tmp_path / "alone", model)
    once, again, alone = (tmp_path / out / "b.png" for out in ("once", "again", "alone"))
    assert once.read_bytes() == again.read_bytes() == alone.read_bytes()
    assert once.read_bytes() != (tmp_path / "once" / "a.png").read_bytes()


def test_both_ways_out_of_one_file(tmp_path):
    file = str(tmp_path / "m.safetensors")
    nets = save(Path(file), "resnet", prefixes=("a_to_b.", "b_to_a."), num_block=1)
    given = image(16, 16)
    for direction, net in zip(("a_to_b", "b_to_a"), nets, strict=True):
        model, chosen = pick_translator(file, direction)
        assert chosen == direction
        with torch.no_grad():
            torch.testing.assert_close(redraw(given, model).rgb, net(given.rgb[None])[0])
    assert pick_translator(file)[1] == "a_to_b"


def test_the_direction_defaults_to_that_of_training(tmp_path):
    file = str(tmp_path / "m.safetensors")
    for options, expected in [
        (json.dumps({"data": {"direction": "b_to_a"}}), "b_to_a"),
        (json.dumps({"data": {}}), "a_to_b"),
        ("no json", "a_to_b"),
        ("[]", "a_to_b"),
    ]:
        save(Path(file), "resnet", num_block=1, extra={"options": options})
        assert trained_direction(file) == expected
        assert pick_translator(file)[1] == expected
    assert pick_translator(file, "a_to_b")[1] == "a_to_b"


def test_models_that_change_the_size_are_refused(tmp_path):
    kwargs = {"scale": 2, "num_feat": 8, "num_block": 1, "num_grow_ch": 4}
    state = GENERATORS["rrdbnet"](**kwargs).state_dict()
    save_safetensors(tmp_path / "sr.safetensors", state, architecture("rrdbnet", kwargs))
    with pytest.raises(UserError, match="upscales by 2; use sr upscale"):
        pick_translator(str(tmp_path / "sr.safetensors"))
    save(tmp_path / "bands.safetensors", "resnet", num_block=1, num_in_ch=7)
    assert pick_translator(str(tmp_path / "bands.safetensors"))[0].channels == 7


def test_messages_of_tiles_are_not_repeated_for_every_image(capsys):
    model = Model(nn.InstanceNorm2d(3), 1, 1, "norm")
    for _ in range(3):
        through(model, torch.rand(3, 40, 40), tile=24, overlap=8, device="cpu")
    assert capsys.readouterr().err.count("tiles of 24x24") == 1
