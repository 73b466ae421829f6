"""Run the program as a user does, and the small options file and images that it needs."""

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


class Forked:
    """`work(*args)` in a process that is forked off one with torch: of its own without the seconds of a start.

    For what needs a process: signals, killed workers, mounts. It has its own session, and its output goes to a file.
    trains: forked off a server instead of this process, because autograd refuses to run in a fork of a process that has
    used it; `work` has to be a function of a module then.
    """

    def __init__(self, log: Path, work: Callable[..., int], *args: Any, trains: bool = False) -> None:
        context = multiprocessing.get_context("forkserver" if trains else "fork")
        if trains:
            needed = "torch._dynamo", "torch.utils.tensorboard", "sr.train.run", "sr.cli"
            context.set_forkserver_preload([work.__module__, *needed])
        log.touch()
        self.log = log
        self.process = context.Process(target=_work, args=(log, work, args))  # type: ignore[attr-defined]
        self.process.start()
        self.pid = self.process.pid

    def ended(self) -> bool:
        return not self.process.is_alive()

    def wait(self, seconds: float = 60) -> tuple[int, str]:
        """Exit code, and all that it printed."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"still running after {seconds} s: {self.said()}"
        return self.process.exitcode, self.said()

    def said(self) -> str:
        return self.log.read_text()


def _work(log: Path, work: Callable[..., int], args: tuple[Any, ...]) -> None:
    os.setsid()
    sys.stdout = sys.stderr = log.open("a", buffering=1)
    os.dup2(sys.stdout.fileno(), 1), os.dup2(sys.stdout.fileno(), 2)
    sys.exit(work(*args))


def until(condition: Callable[[], bool], ended: Callable[[], bool]) -> None:
    """Wait for a process to do something before it ends."""
    deadline = time.monotonic() + 240
    while not condition():
        assert not ended(), "the process ended before it was time"
        assert time.monotonic() < deadline
        time.sleep(0.02)


TWO = (
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
)

ON_CPU = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
