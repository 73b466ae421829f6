"""Every recipe in options/ runs for a step, with its own keys and parts but small networks and data."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from sr.config.options import Options
from sr.core.errors import UserError
from sr.nets.io.state_dicts import save_pth
from sr.nets.rrdbnet import RRDBNet
from sr.train.builder import Builder, load
from sr.train.run import train
from tests.helpers.program import ROOT
from tests.helpers.tiers import slow

RECIPES = sorted((ROOT / "options").glob("*.yml"))
SMALL: dict[str, dict[str, Any]] = {
    "rrdbnet": {"num_feat": 8, "num_block": 1, "num_grow_ch": 4},
    "compact": {"num_feat": 8, "num_conv": 1},
    "unet_128": {"num_feat": 4},
    "unet_256": {"num_feat": 2},
    "resnet_9blocks": {"num_feat": 4},
    "spandrel.SPAN": {"feature_channels": 8},
    "spandrel.RealPLKSR": {"dim": 16, "n_blocks": 1},
    "spandrel.DAT": {"embed_dim": 32, "depth": [2], "num_heads": [2]},
    "spandrel.HAT": {
        "embed_dim": 16,
        "depths": [1],
        "num_heads": [2],
        "window_size": 8,
        "compress_ratio": 4,
        "squeeze_factor": 4,
    },
    "spandrel.SwinIR": {"embed_dim": 8, "depths": [1], "num_heads": [2]},
}


def small_data(options: Options, photos: Path) -> list[str]:
    """The recipe's own kind of source over a few images, and a validation set of it."""
    if options.task in ("psnr", "sr_gan"):
        own = [f"data.source={{type: folder, gt: {photos}}}", f"validation.sets={{own: {{hr: {photos}}}}}"]
        return [*own, "data.gt_size=32", "data.degrade_size=40"]
    folder = f"{{type: folder, gt: {photos}}}"
    part = {
        "side_by_side": f"{{type: side_by_side, path: {photos}}}",
        "unpaired": f"{{type: unpaired, a: {folder}, b: {folder}}}",
    }.get(options.data.source["type"], f"{{type: {options.data.source['type']}, of: {folder}}}")
    size = {"unet_256": 256, "unet_128": 128}.get(options.generator["type"], 64)
    own = [f"data.source={part}", f"validation.sets={{own: {{source: {part}, size: {size}}}}}"]
    return [*own, f"data.gt_size={size}", f"data.load_size={size + 8}"]


def teacher(folder: Path, scale: int) -> Path:
    save_pth(folder / "teacher.pth", RRDBNet(scale=scale, **SMALL["rrdbnet"]).state_dict())  # type: ignore[arg-type]
    return folder / "teacher.pth"


LIKE_OTHERS = [
    "colorize_lab",
    "dat2_x4",
    "distill_x4",
    "edges_to_photo",
    "esrgan_x4",
    "hat_x4",
    "pix2pix_facades",
    "pix2pix_mixed",
    "pix2pix_perceptual",
    "pix2pix_small",
    "realesrgan_x2",
    "swinir_x4",
]
RUN = [file for file in RECIPES if file.stem not in LIKE_OTHERS]


@pytest.mark.parametrize("file", RUN + slow(sorted({*RECIPES} - {*RUN})), ids=lambda p: p.stem)
def test_recipe_runs_a_step(file: Path, photos: Path, tmp_path: Path) -> None:
    for unused in sorted(photos.iterdir())[2:]:
        unused.unlink()
    options = load(file)
    assert options.name == file.stem
    assert len(file.read_text().splitlines()) <= 50
    sets = [
        f"out={tmp_path}",
        *small_data(options, photos),
        "data.batch_size=2",
        "data.workers=0",
        *(f"generator.{key}={value}" for key, value in SMALL[options.generator["type"]].items()),
        "train.total_steps=1",
    ]
    sets += ["discriminator.num_feat=4"] if options.discriminator else []
    sets += ["losses.perceptual.weights=random"] if "perceptual" in options.losses.reconstruction else []
    sets += (
        [f"losses.distill.teacher={teacher(tmp_path, options.scale)}"]
        if "distill" in options.losses.reconstruction
        else []
    )
    sets += ["data.make=null"] if options.data.make else []
    train(load(file, sets))
    assert list((tmp_path / file.stem / "models").glob("net_g_1.safetensors"))
    strips, ways = list((tmp_path / file.stem / "strips").glob("*.png")), 4 if options.task == "cyclegan" else 1
    assert len(strips) == ways * min(2, options.validation.pictures)


def test_a_term_of_weight_0_loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.models._api.WeightsEnum, "get_state_dict", None)  # a download fails
    options = load("realesrgan_x4", ["losses.perceptual.weight=0"])
    assert list(Builder(options).reconstruction(torch.device("cpu")).terms) == ["pixel"]


@pytest.mark.parametrize("file", [f for f in RECIPES if "perceptual:" in f.read_text()], ids=lambda p: p.stem)
def test_missing_weights_are_reported_before_training(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torchvision.models._api.WeightsEnum, "get_state_dict", offline)
    with pytest.raises(UserError, match="weights"):
        Builder(load(file)).reconstruction(torch.device("cpu"))
