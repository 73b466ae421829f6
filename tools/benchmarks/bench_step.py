"""A training step of ours against BasicSR's (Real-ESRGAN's recipe), and against other trainers given by path.

--part gan: RRDBNet, U-Net discriminator with spectral norm, five layers of VGG19 (random weights), vanilla GAN, Adam,
EMA. Reference: `RealESRGANModel.optimize_parameters` of the package basicsr in fp32, as released: on CUDA, torch then
uses TF32 in convolutions, and the arm "BasicSR strict" measures it without. Ours: the trainer's step on the same batch
from the same weights. --part generator: forward and backward of the generator with L1 only.
Data, degradation and sharpening are excluded. Deviation: of the gradients of the first step.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
import yaml
from bench_harness import Arm, Row, compare
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sr.data.batch import Batch, RawBatch
from sr.distributed.backends.ddp import State
from sr.train.builder import Builder, load
from sr.train.model_optimizer import choose_precision
from sr.train.trainer import Trainer

RATE, GAN_WEIGHT = 1e-4, 0.1
Optimizers = Mapping[str, torch.optim.Optimizer]


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--part", choices=["gan", "generator"], default="gan", help="(%(default)s)")
    parser.add_argument("--gt", type=int, default=256, help="side of a ground truth in pixels (%(default)s)")
    parser.add_argument("--batch", type=int, default=2, help="images per batch (%(default)s)")
    parser.add_argument("--blocks", type=int, default=23, help="RRDBs of the generator (%(default)s)")
    parser.add_argument("--feat", type=int, default=64, help="features of the generator (%(default)s)")
    parser.add_argument("--scale", type=int, choices=[1, 2, 4], default=4, help="(%(default)s)")
    parser.add_argument("--precision", nargs="+", default=["auto", "fp32"], help="precisions of ours (auto fp32)")
    parser.add_argument("--compile", action="store_true", help="also measure train.compile at the first precision")
    parser.add_argument("--other", type=Path, nargs="*", default=[], help="checkouts of traiNNer-redux or neosr")


def run(args: argparse.Namespace) -> list[Row]:
    from other_trainers import Other
    from reference_step import Reference

    torch.backends.cudnn.benchmark = True  # as BasicSR's train.py sets it
    torch.manual_seed(0)
    reference = Reference(args, rate=RATE, gan_weight=GAN_WEIGHT)
    start, batch = reference.start(), batch_of(args)
    reference.give(batch)
    with tempfile.TemporaryDirectory() as folder:
        if args.part == "gan":
            arms = [_step("BasicSR", "fp32", reference.step, reference.optimizers)]
        else:
            arms = [_alone("BasicSR", "fp32", reference.model.net_g, batch, nullcontext)]
        if args.part == "gan" and args.device.type == "cuda":
            arms.append(_step("BasicSR strict", "fp32", strict(reference.step), reference.optimizers))
        precisions = list(dict.fromkeys(choose_precision(asked, args.device) for asked in args.precision))
        ways = [(precision, False) for precision in precisions] + [(precisions[0], True)] * args.compile
        for number, (precision, compiled) in enumerate(ways):
            more = {"compile": compiled}
            engine = engine_of(args, Path(folder, str(number)), precision, more, start, batch)
            name = "ours, compiled" if compiled else "ours"
            if args.part == "gan":
                optimizers = {role: player.optimizer for role, player in engine.players.items()}
                arms.append(_step(name, precision, partial(engine.train_step, repeat(RawBatch([]))), optimizers))
            else:
                generator = engine.players["generator"].module
                arms.append(_alone(name, precision, generator, engine.prepare(RawBatch([])), engine._autocast))
        for path in args.other:
            other = Other(path, args, precisions[0], start, batch, rate=RATE, gan_weight=GAN_WEIGHT)
            if args.part == "gan":
                arms.append(_step(path.name, other.precision, other.step, other.optimizers))
            else:
                arms.append(_alone(path.name, other.precision, other.generator, other.batch, other.autocast))
        _count(arms, args.batch)
        work = f"{args.part} {args.feat}/{args.blocks} x{args.scale}, gt {args.gt}, batch {args.batch}"
        return compare(work, arms, rounds=args.pairs, device=args.device, memory=args.memory)


def strict(run: Callable[[], None]) -> Callable[[], None]:
    """Return `run` without TF32 in convolutions; torch multiplies matrices without it by default."""

    def exactly() -> None:
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
            run()

    return exactly


def _count(arms: list[Arm], images: int) -> None:
    """Count the operations of all arms during the first run of the reference."""
    first, counter = arms[0].output, FlopCounterMode(display=False)
    assert first is not None

    def counted() -> Any:
        with counter:
            output = first()
        for arm in arms:
            arm.operations, arm.items = counter.get_total_flops(), images
        return output

    arms[0].output = counted


def batch_of(args: argparse.Namespace) -> Batch:
    """Return smooth noise. As in Real-ESRGAN, the target of the pixel losses differs from the ground truth."""
    side = args.gt // args.scale
    lq = torch.rand(args.batch, 3, side, side)
    gt = nn.functional.interpolate(lq, scale_factor=args.scale, mode="bicubic").clamp(0, 1)
    sharp = (gt + 0.1 * torch.randn_like(gt)).clamp(0, 1)
    return Batch(*(images.to(args.device) for images in (lq, gt, sharp)))


RECIPE = {
    "name": "step",
    "task": "sr_gan",
    "discriminator": {"type": "unet_sn"},
    "losses": {
        "pixel": {"type": "l1"},
        "perceptual": {"type": "vgg19", "weights": "random"},
        "gan": {"type": "vanilla", "weight": GAN_WEIGHT},
    },
    "optimizer": {role: {"type": "adam", "lr": RATE} for role in ("generator", "discriminator")},
}


def engine_of(
    args: argparse.Namespace,
    folder: Path,
    precision: str,
    more: Mapping[str, Any],
    start: Mapping[str, State],
    batch: Batch,
) -> Trainer:
    """Build the trainer as `sr train` does; every step receives `batch`.

    more: options of `train`. start: weights by player; random ones where it is empty.
    """
    folder.mkdir()
    Image.new("RGB", (args.gt, args.gt)).save(folder / "any.png")
    train = {"total_steps": 1_000_000, "precision": precision, "ema_decay": 0.999}
    recipe = RECIPE | {
        "scale": args.scale,
        "out": str(folder),
        "generator": {"type": "rrdbnet", "num_feat": args.feat, "num_block": args.blocks},
        "data": {"source": {"type": "folder", "gt": str(folder)}, "gt_size": args.gt, "batch_size": args.batch},
        "train": train | dict(more),
    }
    file = folder / "step.yml"
    file.write_text(yaml.safe_dump(recipe))
    engine = Builder(load(file)).trainer()
    for role, weights in start.items():
        engine.players[role].raw.load_state_dict(weights)
    if start:
        engine.ema.load_state(start["generator"])
    layout = torch.channels_last
    pair = Batch(*(images.contiguous(memory_format=layout) for images in (batch.lq, batch.gt, batch.target)))
    engine.prepare = lambda raw: pair
    return engine


def _step(name: str, precision: str, run: Callable[[], None], optimizers: Optimizers) -> Arm:
    """A full step. Its output are the gradients that the optimizers received, one vector per player."""

    def output() -> dict[str, Tensor]:
        seen = {}
        hooks = [
            optimizer.register_step_pre_hook(lambda o, *_, role=role: seen.update({role: _gradients(o)}))
            for role, optimizer in optimizers.items()
        ]
        run()
        for hook in hooks:
            hook.remove()
        return seen

    def reset() -> None:
        for optimizer in optimizers.values():
            optimizer.zero_grad()

    return Arm(f"{name}, {precision}", run, output, reset, dtype=precision)


def _alone(
    name: str, precision: str, net: nn.Module, batch: Batch, autocast: Callable[[], AbstractContextManager[Any]]
) -> Arm:
    """Forward and backward of the generator with L1."""
    parameters = list(net.parameters())

    def reset() -> None:
        for parameter in parameters:
            parameter.grad = None

    def run() -> None:
        with autocast():
            output = net(batch.lq)
        nn.functional.l1_loss(output.float(), batch.gt).backward()

    def output() -> dict[str, Tensor]:
        run()
        return {"generator": torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])}

    return Arm(f"{name}, {precision}", run, output, reset, dtype=precision)


def _gradients(optimizer: torch.optim.Optimizer) -> Tensor:
    return torch.cat([p.grad.flatten() for group in optimizer.param_groups for p in group["params"]])
