"""Run the program as a user does, and the small options file and images that it needs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]

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


def write_photos(folder: Path) -> Path:
    """Six smooth random images of 48 x 56."""
    folder.mkdir()
    for number in range(6):
        coarse = np.random.default_rng(number).integers(0, 256, (6, 7, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((56, 48), Image.Resampling.BICUBIC).save(folder / f"photo_{number}.png")
    return folder


def sr(*args: str | Path, launcher: tuple[str, ...] = (), **env: str) -> subprocess.CompletedProcess[str]:
    """`python -m sr ARGS` (or `launcher ... -m sr ARGS`) to its end."""
    command = [*launcher, *(() if launcher else (sys.executable,)), "-m", "sr", *map(str, args)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, cwd=ROOT)


TWO = (
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
)

ON_CPU = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
