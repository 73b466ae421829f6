"""Networks of any number of channels: grey, grey and alpha, RGB, RGBA, bands; trained, validated, used, exported."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from sr.cli import main
from sr.core.errors import UserError
from sr.images import ImageData
from sr.inference.export import export
from sr.inference.translate import pick_translator, translate
from sr.inference.upscale import Upscaler, pick_model, planes_of, upscale
from sr.nets.io.load import architecture, open_model
from sr.nets.io.state_dicts import save_safetensors
from sr.nets.rrdbnet import RRDBNet
from sr.train.builder import load
from sr.train.run import train
from sr.train.summary import summary
from tests.helpers.tiers import slow

CHANNELS = [(1, 1), (2, 2), (4, 4), (6, 6), (1, 3), (3, 1), (4, 3), (3, 4), (6, 3), (3, 6)]
ROTATED = [(channels, scale) for n, channels in enumerate(CHANNELS) for scale in {(1, 2, 4)[n % 3], 2}]  # each with x2


def saved(folder: Path, channels: tuple[int, int], scale: int) -> Path:
    torch.manual_seed(0)
    kwargs: dict[str, Any] = {"num_feat": 4, "num_block": 1, "num_grow_ch": 4, "scale": scale}
    kwargs |= {"num_in_ch": channels[0], "num_out_ch": channels[1]}
    path = folder / f"net_{channels[0]}_{channels[1]}_x{scale}.safetensors"
    save_safetensors(path, RRDBNet(**kwargs).state_dict(), architecture("rrdbnet", kwargs))
    return path


def write(path: Path, channels: int, *, side: tuple[int, int] = (20, 24), deep: bool = False) -> np.ndarray:
    """An image file of random pixels [h, w, channels]."""
    kind = np.uint16 if deep else np.uint8
    pixels = np.random.default_rng(0).integers(0, np.iinfo(kind).max + 1, (*side, channels), dtype=kind)
    if channels > 4:
        tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig")
    else:
        Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(path)
    return pixels


def suffix(channels: int) -> str:
    return ".tif" if channels > 4 else ".png"


@pytest.mark.parametrize(("channels", "scale"), ROTATED[::3] + slow(c for n, c in enumerate(ROTATED) if n % 3))
def test_upscale_gives_and_makes_the_channels_of_the_model(tmp_path: Path, channels: Any, scale: int) -> None:
    (tmp_path / "in").mkdir()
    name = "a" + suffix(max(channels))
    pixels = write(tmp_path / "in" / ("a" + suffix(channels[0])), channels[0])
    model = pick_model(str(saved(tmp_path, channels, scale)))
    format = None if suffix(channels[0]) == suffix(max(channels)) else "tif"
    report = upscale([tmp_path / "in"], tmp_path / "out", model, format=format)
    assert report.failed == []
    made = (
        tifffile.imread(tmp_path / "out" / name)
        if name.endswith("tif")
        else np.asarray(Image.open(tmp_path / "out" / name))
    )
    made = made[..., None] if made.ndim == 2 else made
    with torch.no_grad():
        wanted = model.net(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)[0].clamp(0, 1)
    count = channels[1]
    colours = count - (count in (2, 4)) if count <= 4 else count  # alpha keeps its extremes
    wanted = (wanted * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(made[..., :colours].astype(int) - wanted[..., :colours]).max() <= 1
    assert made.shape[:2] == (20 * scale, 24 * scale)
    if scale == 1:
        translated = translate(
            [tmp_path / "in"], tmp_path / "t", pick_translator(str(saved(tmp_path, channels, 1)))[0], format=format
        )
        assert translated.failed == []


def test_bands_keep_16_bits_and_need_tiff(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "a.tif", 6, deep=True)
    model = pick_model(str(saved(tmp_path, (6, 6), 2)))
    assert upscale([tmp_path / "in"], tmp_path / "out", model).failed == []
    made = tifffile.imread(tmp_path / "out" / "a.tif")
    assert (made.shape, made.dtype) == ((40, 48, 6), np.uint16)
    ((_, reason),) = upscale([tmp_path / "in"], tmp_path / "png", model, format="png").failed
    assert "png cannot hold 6 channels; give --format tif" in reason
    write(tmp_path / "in" / "b.png", 3)
    ((_, reason),) = upscale([tmp_path / "in"], tmp_path / "more", model).failed
    assert "b.png" in str(_)


def test_alpha_of_a_network_that_makes_it_keeps_its_extremes(tmp_path: Path) -> None:
    model = pick_model(str(saved(tmp_path, (4, 4), 2)))
    clear = ImageData(rgb=torch.rand(3, 8, 8), alpha=torch.zeros(1, 8, 8))
    made = Upscaler(model)([clear, ImageData(rgb=torch.rand(3, 8, 8))])
    assert made[0].alpha is not None
    assert made[0].alpha.max() == 0
    assert made[1].alpha is None
    with pytest.raises(UserError, match="give TIFF files of 6 bands"):
        planes_of(clear, 6)


@pytest.mark.parametrize(("channels", "scale"), ROTATED[:1] + slow(ROTATED[1:]))
def test_export_and_open_again(tmp_path: Path, channels: Any, scale: int) -> None:
    source = saved(tmp_path, channels, scale)
    image = torch.rand(1, channels[0], 16, 20)
    with torch.no_grad():
        wanted = open_model(source).net(image)
    onnx = importlib.util.find_spec("onnxruntime") and scale == 2 and channels in ((1, 1), (4, 4), (6, 3))
    for kind in (".safetensors", ".pth", *([".onnx"] if onnx else [])):
        target = tmp_path / f"exported{kind}"
        try:
            export(str(source), target)
        except UserError as error:
            reason = str(error)
            assert (kind, channels[0] == channels[1], "export .safetensors" in reason) == (".pth", False, True)
            continue
        if kind != ".onnx":
            again = open_model(target)
            assert (again.scale, again.channels, again.out_channels) == (scale, *channels)
            with torch.no_grad():
                assert torch.equal(again.net(image), wanted)


# ---- training and validation -----------------------------------------------------------------------------------------


def images(folder: Path, channels: int, side: int = 48, count: int = 3) -> Path:
    """Image files of smooth random content."""
    folder.mkdir()
    for number in range(count):
        coarse = np.random.default_rng(number).integers(0, 256, (6, 6, channels), dtype=np.uint8)
        planes = [
            Image.fromarray(coarse[..., n]).resize((side, side), Image.Resampling.BICUBIC) for n in range(channels)
        ]
        pixels = np.stack([np.asarray(plane) for plane in planes], 2)
        if channels > 4:
            tifffile.imwrite(folder / f"{number}.tif", pixels, photometric="minisblack", planarconfig="contig")
        else:
            Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(folder / f"{number}.png")
    return folder


def options(tmp_path: Path, recipe: Any, channels: tuple[int, int], scale: int, **more: Any) -> Path:
    sets = more.pop("validation__sets", {"own": {"hr": str(tmp_path / "hr")}})
    changes = {"scale": scale, "task": "psnr", "discriminator": None, "losses__gan": None}
    changes |= {"optimizer__discriminator": None, "train__total_steps": 2, "data__batch_size": 2}
    changes |= {"generator__num_in_ch": channels[0], "generator__num_out_ch": channels[1]}
    changes |= {"data__source": {"type": "folder", "gt": str(tmp_path / "hr")}, "validation": {"sets": sets}}
    return recipe(**(changes | more))


def validate(capsys: Any, *args: Any) -> dict[str, Any]:
    assert main(["validate", "--json", *map(str, args)]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(("channels", "scale"), [(1, 2), (4, 1), *slow([(1, 1), (2, 2), (2, 4), (4, 4), (6, 2)])])
def test_train_validate_and_upscale(tmp_path: Path, recipe: Any, capsys: Any, channels: int, scale: int) -> None:
    """One command after the other, as a user goes on: no verb refuses what the one before it made."""
    hr = images(tmp_path / "hr", channels)
    file = options(tmp_path, recipe, (channels, channels), scale)
    summary(load(file))
    train(load(file))
    model = tmp_path / "runs" / "tiny" / "models" / "net_g_2.safetensors"
    (best,) = load(file).best_metrics
    assert best == ("psnr_y" if channels == 1 else "psnr_rgb")
    (row,) = [json.loads(line) for line in (tmp_path / "runs/tiny/log.jsonl").open() if f"/{best}" in line][-1:]
    lr = tmp_path / "lr"
    assert main(["degrade", str(hr), str(lr), "--options", str(file)]) == 0
    assert main(["upscale", str(lr), "-o", str(tmp_path / "up"), "-m", str(model)]) == 0
    for number, path in enumerate(sorted(lr.iterdir())):
        path.rename(lr / f"{number}{path.suffix}")
    capsys.readouterr()
    table = validate(capsys, "--model", model, "--hr", hr, "--lr", lr)
    assert set(table["mean"]) >= {"psnr_rgb", "ssim_rgb"}
    if channels != 1:
        assert "psnr_y" not in table["mean"]
    if scale > 1:
        own = validate(capsys, "--model", model, "--hr", hr)
        assert own["mean"]["psnr_rgb"] == pytest.approx(row["val/own/psnr_rgb"], abs=1e-3) if channels > 1 else True
        if channels != 1:
            assert own["left_out"]["psnr_y"] == f"it is for grey and RGB images, not for {channels} channels"


def test_other_numbers_of_channels_in_and_out(tmp_path: Path, recipe: Any) -> None:
    """RGB and alpha in, RGB out: lq of the folder, and for validation made from hr as the network takes it."""
    hr, lr = images(tmp_path / "hr", 4), images(tmp_path / "lr", 4, side=24)
    source = {"type": "folder", "gt": str(hr), "lq": str(lr)}
    sets = {"own": {"hr": str(hr)}, "pairs": {"hr": str(hr), "lr": str(lr)}, "source": {"source": source}}
    file = options(tmp_path, recipe, (4, 3), 2, data__source=source, degrade=[], validation__sets=sets)
    train(load(file))
    last = [json.loads(line) for line in (tmp_path / "runs/tiny/log.jsonl").open()][-1]
    assert {"val/own/psnr_y", "val/pairs/psnr_y", "val/source/psnr_y"} <= last.keys()


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"degrade": [{"type": "jpeg"}, {"type": "downscale"}]}, "degrade.0", "jpeg is for grey and RGB, not for 4"),
        (
            {"degrade": [{"type": "one_of", "choices": [[{"type": "downscale"}, {"type": "jpeg"}]]}]},
            "degrade.0.choices.0.1",
            "remove this stage",
        ),
        ({"generator__num_out_ch": 3}, "degrade", "set num_in_ch and num_out_ch alike"),
        ({"validation": {"best": "ssim_y"}}, "validation.best", "set it to psnr_rgb"),
        ({"losses__vgg19": {}}, "losses.vgg19", "makes 4 channels; remove it"),
    ],
)
def test_what_cannot_work_is_named(tmp_path: Path, recipe: Any, changes: Any, key: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        load(options(tmp_path, recipe, (4, 4), 2, **changes))
    assert any(f"  {key}: " in line and words in line for line in str(caught.value).splitlines())


def test_outputs_of_bands_are_measured(tmp_path: Path, capsys: Any) -> None:
    hr = images(tmp_path / "hr", 6)
    table = validate(capsys, "--outputs", hr, "--hr", hr, "--scale", "2")
    assert "psnr_y" in table["left_out"]
    assert table["mean"]["ssim_rgb"] == pytest.approx(1)
