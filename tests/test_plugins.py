"""Parts of the user's own files in a whole run: trained, resumed, and opened again only where the user names them."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sr.cli import main
from sr.images import read_image
from tests.helpers.training import Recipe, assert_same, engine, state

PARTS = """
import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Sequential):
    def __init__(self, scale, width=8):
        super().__init__(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 3 * scale**2, 3, padding=1),
                         nn.PixelShuffle(scale))


class Critic(nn.Sequential):
    def __init__(self, num_in_ch, width=8):
        super().__init__(nn.Conv2d(num_in_ch, width, 3, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(width, 1, 3, 1, 1))

    def forward(self, images):
        return [super().forward(images)]


class Huber(nn.Module):
    def __init__(self, delta=1.0):
        super().__init__()
        self.delta = delta

    def forward(self, output, target):
        return F.huber_loss(output, target, delta=self.delta)


class Darken:
    def __init__(self, factor=0.5):
        self.factor = factor

    def __call__(self, images, draws):
        return [image * self.factor for image in images]
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    file = tmp_path / "own_parts_31.py"
    file.write_text(PARTS)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield file
    sys.modules.pop("own_parts_31", None)


def test_a_run_of_own_parts_resumes_and_its_model_opens_when_named(
    recipe: Recipe, photos: Path, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {
        "generator": {"type": "own_parts_31.Net", "width": 4},
        "discriminator": {"type": "own_parts_31.Critic"},
        "losses__pixel": {"type": "own_parts_31.Huber", "delta": 0.5},
        "degrade": [{"type": "own_parts_31.Darken", "factor": 0.75}, {"type": "downscale"}],
    }
    whole = engine(recipe(name="whole", **changes), "train.total_steps=3")
    whole.run()
    file = recipe(name="part", **changes)
    engine(file, "train.total_steps=2").run()
    rest = engine(file, "train.total_steps=3")
    rest.run()
    assert_same(state(whole), state(rest))
    model = str(tmp_path / "runs" / "whole" / "models" / "net_g_3.safetensors")
    sys.modules.pop("own_parts_31")
    photo = str(next(photos.iterdir()))
    capsys.readouterr()
    assert main(["upscale", photo, "-o", str(tmp_path / "out.png"), "-m", model]) == 2
    error = capsys.readouterr().err
    assert "its network, own_parts_31.Net, is not part of sr" in error
    assert "--plugins" in error
    assert "own_parts_31" not in sys.modules
    assert main(["upscale", photo, "-o", str(tmp_path / "out.png"), "-m", model, "--plugins", str(own)]) == 0
    made, given = read_image(tmp_path / "out.png"), read_image(photo)
    assert made.rgb.shape[-1] == whole.options.scale * given.rgb.shape[-1]
