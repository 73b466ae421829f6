"""Shared ground: small images, a small recipe, and the program as a user starts it."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).parents[1]
os.environ.setdefault("OMP_NUM_THREADS", "1")

TINY = {
    "name": "tiny",
    "task": "sr_gan",
    "scale": 2,
    "generator": {"type": "rrdbnet", "num_feat": 8, "num_block": 1, "num_grow_ch": 4},
    "discriminator": {"type": "unet_sn", "num_feat": 8},
    "losses": {"pixel": {"type": "l1"}, "gan": {"type": "vanilla", "weight": 1e-3}},
    "degrade": [{"type": "blur"}, {"type": "downscale"}, {"type": "noise"}],
    "data": {"source": {"type": "folder", "gt": "photos"}, "gt_size": 32, "batch_size": 4, "workers": 0},
    "optimizer": {"generator": {"type": "adam", "lr": 1e-3}, "discriminator": {"type": "adam", "lr": 1e-3}},
    "train": {"total_steps": 4, "ema_decay": 0.9},
    "log": {"every": 2},
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos")


def write_photos(folder: Path) -> Path:
    """Six smooth random images of 48 x 56."""
    folder.mkdir()
    for number in range(6):
        coarse = np.random.default_rng(number).integers(0, 256, (6, 7, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((56, 48), Image.Resampling.BICUBIC).save(folder / f"photo_{number}.png")
    return folder


@pytest.fixture
def recipe(tmp_path: Path, photos: Path) -> Callable[..., Path]:
    """Writes TINY (with keys replaced, dots for depth) as an options file whose paths are all inside tmp_path."""

    def write(**changes: object) -> Path:
        options = yaml.safe_load(yaml.safe_dump(TINY))
        options["out"] = str(tmp_path / "runs")
        options["data"]["source"] = {"type": "folder", "gt": str(photos)}
        for dotted, value in changes.items():
            *path, last = dotted.split("__")
            target = options
            for step in path:
                target = target.setdefault(step, {})
            if value is None:
                target.pop(last)
            else:
                target[last] = copy.deepcopy(value)  # or a later change would reach the test's own constants
        file = tmp_path / f"{options['name']}.yml"
        file.write_text(yaml.safe_dump(options, sort_keys=False))
        return file

    return write


def sr(*args: str | Path, launcher: tuple[str, ...] = (), **env: str) -> subprocess.CompletedProcess[str]:
    """`python -m sr ARGS` (or `launcher ... -m sr ARGS`) to its end."""
    command = [*launcher, *(() if launcher else (sys.executable,)), "-m", "sr", *map(str, args)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, cwd=ROOT)
