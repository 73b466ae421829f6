"""Every YAML in options/ runs for a step: its own keys and parts, with small nets and small data in their place."""

from pathlib import Path

import pytest
import torch
import torchvision

from sr.build import Build, load
from sr.errors import UserError
from sr.nets.layouts import save_pth
from sr.nets.rrdbnet import RRDBNet
from sr.run import train
from tests.conftest import ROOT

RECIPES = sorted((ROOT / "options").glob("*.yml"))
SMALL: dict[str, dict[str, int]] = {
    "rrdbnet": {"num_feat": 8, "num_block": 1, "num_grow_ch": 4},
    "compact": {"num_feat": 8, "num_conv": 1},
}


def teacher(folder: Path, scale: int) -> Path:
    save_pth(folder / "teacher.pth", RRDBNet(scale=scale, **SMALL["rrdbnet"]).state_dict())  # type: ignore[arg-type]
    return folder / "teacher.pth"


@pytest.mark.parametrize("file", RECIPES, ids=lambda p: p.stem)
def test_recipe_runs_a_step(file: Path, photos: Path, tmp_path: Path) -> None:
    options = load(file)
    assert options.name == file.stem
    assert len(file.read_text().splitlines()) <= 50
    sets = [
        f"out={tmp_path}",
        f"data.source={{type: folder, gt: {photos}}}",
        "data.gt_size=64",
        "data.crop_size=72",
        "data.batch_size=2",
        "data.workers=0",
        *(f"generator.{key}={value}" for key, value in SMALL[options.generator["type"]].items()),
        "train.total_steps=1",
        f"validation.sets={{own: {{hr: {photos}}}}}",
    ]
    sets += ["discriminator.num_feat=8"] if options.discriminator else []
    sets += ["losses.perceptual.weights=random"] if "perceptual" in options.losses.fidelity else []
    sets += (
        [f"losses.distill.teacher={teacher(tmp_path, options.scale)}"] if "distill" in options.losses.fidelity else []
    )
    sets += ["data.make=null"] if options.data.make else []
    train(load(file, sets))
    assert list((tmp_path / file.stem / "models").glob("net_g_1.safetensors"))
    assert len(list((tmp_path / file.stem / "strips").glob("*.png"))) == min(4, options.validation.pictures)


@pytest.mark.parametrize("file", [f for f in RECIPES if "type: vgg19" in f.read_text()], ids=lambda p: p.stem)
def test_missing_weights_are_told_before_training(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torchvision.models._api.WeightsEnum, "get_state_dict", offline)
    with pytest.raises(UserError, match="weights"):
        Build(load(file)).fidelity(torch.device("cpu"))
