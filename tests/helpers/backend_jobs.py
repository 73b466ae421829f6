"""The jobs of one launch in test_backends: `accelerate launch -m tests.helpers.backend_jobs JOBS.json BACKEND`."""

import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sr.core.errors import UserError
from sr.distributed import comm
from sr.distributed.backends import accelerator, deepspeed, read_launch
from sr.nets.spectral import SpectralConv2d
from sr.train import replica_check
from sr.train.builder import Builder, load
from sr.train.checkpoint import Checkpoint
from sr.train.checkpoint import load as load_checkpoint
from sr.train.model_optimizer import ModelOptimizer
from sr.train.trainer import Trainer
from tests.helpers.training import assert_same, check_equal_shapes_once

KINDS = {"ddp": "DDP", "zero1": "Zero12", "zero2": "Zero12", "zero3": "Zero3", "fsdp2": "FSDP2"}


def made(job: dict[str, Any]) -> Trainer:
    return Builder(load(job["options"], job.get("sets", ()))).trainer()


def held(engine: Trainer, name: str) -> dict[str, torch.Tensor]:
    if name == "task":
        return engine.task.state()
    return engine.ema.state() if name == "ema" else engine.players[name].state()


def check_loaded(engine: Trainer, found: Checkpoint) -> None:
    """Resume, and compare players and EMA with the checkpoint bit for bit."""
    engine.resume()
    for name, tensors in found.tensors.items():
        own = held(engine, name)
        if comm.is_main():
            assert_same(own, tensors)


def run(job: dict[str, Any]) -> None:
    engine = made(job)
    assert type(engine.players["generator"].backend).__name__ == KINDS[sys.argv[2]]
    if "start" in job:
        start = Path(job["start"])
        target = engine.options.folder / "checkpoints" / start.name
        if comm.is_main():
            shutil.copytree(start, target)
        comm.barrier()
        check_loaded(engine, load_checkpoint(target))
    engine.run()


def diverge(job: dict[str, Any]) -> None:
    """Change one weight on one rank: every rank reports it by name."""
    engine = made(job)
    batches = engine.batches(0)
    engine.train_step(batches)
    replica_check.check_ranks(engine.players, engine.ema, step=1, every=1)
    with torch.no_grad():
        if comm.rank() == 1:
            engine.players["discriminator"].raw.conv3.weight_orig[0, 0, 0, 0] += 1e-6
    with pytest.raises(UserError, match=r"step 1: discriminator.conv3.weight_orig on rank 1 differs from rank 0"):
        replica_check.check_ranks(engine.players, engine.ema, step=1, every=1)


def spectral(job: dict[str, Any]) -> None:
    """A net with spectral norm whose weights the backend may let go of at any time, and a graph gone through twice: as
    the shares of CycleGAN's losses need it, where one generator judges the output of the other."""
    launch = read_launch()
    accelerate = accelerator(launch)
    torch.manual_seed(0)
    layers = SpectralConv2d(3, 9, 3, padding=1), nn.LeakyReLU(), SpectralConv2d(9, 3, 3, padding=1, bias=True)
    net = nn.Sequential(*layers)
    adam, shared = torch.optim.Adam(net.parameters(), 1e-2), {"accelerator": accelerate, "launch": launch}
    player = ModelOptimizer(
        name="net", net=net, optimizer=adam, schedule=lambda base, step: base, clip_norm=0.1, accumulate=2, **shared
    )
    for number in range(6):
        x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(2 * number + comm.rank())).requires_grad_()
        last = number % 2 == 1
        with player.no_sync(last):
            loss = (player.module(x) - x).square().mean() / 2
            torch.autograd.grad(loss, x, retain_graph=True)
            player.update(loss, step=number // 2, last=last)
    state = player.state()
    if comm.is_main():
        save_file(state, job["out"])


JOBS = {"run": run, "diverge": diverge, "spectral": spectral}


def main() -> None:
    warnings.simplefilter("ignore")
    check_equal_shapes_once()
    deepspeed.SMALL = 0  # else all of nets as small as these would stay whole
    for job in json.loads(Path(sys.argv[1]).read_text()):
        JOBS[job["do"]](job)
        comm.barrier()
    comm.shutdown()


if __name__ == "__main__":
    main()
