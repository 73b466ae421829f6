"""Overhead around a training step: logging, saving, and the start-up before the first step.

--part log: a plain step, one that logs (gradient shares of the losses, log files) and one that saves a checkpoint, with
the networks of `step`. A thread writes the checkpoint while the next step runs, so a round of `saves` is two steps.
--part start: from the start of a process to the first degraded batch of options/realesrgan_x4.yml, with networks built
and data open (one image, batch 1, random VGG weights).
"""

import argparse
import subprocess
import sys
import tempfile
from contextlib import closing
from io import StringIO
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from bench_harness import Arm, Row, compare
from PIL import Image
from tqdm import tqdm

from sr.data.batch import RawBatch
from sr.train.tracker import Tracker
from sr.train.trackers import Run, TensorBoard


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--part", choices=["log", "start"], default="log", help="(%(default)s)")
    parser.add_argument("--gt", type=int, default=256, help="side of a ground truth in pixels (%(default)s)")
    parser.add_argument("--batch", type=int, default=2, help="images per batch (%(default)s)")
    parser.add_argument("--blocks", type=int, default=23, help="RRDBs of the generator (%(default)s)")


def run(args: argparse.Namespace) -> list[Row]:
    return _start(args) if args.part == "start" else _log(args)


START = """
import sys
from sr.train.builder import Builder, load
engine = Builder(load(sys.argv[1], sys.argv[2:])).trainer()
engine.prepare(next(engine.batches(0)))
"""


def _start(args: argparse.Namespace) -> list[Row]:
    root = Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory() as folder:
        Image.new("RGB", (400, 400)).save(Path(folder, "photo.png"))
        sets = [f"data.source={{type: folder, gt: {folder}}}", "data.batch_size=1", f"out={folder}"]
        sets += ["losses.perceptual.weights=random", "validation.sets={}"]
        line = [sys.executable, "-c", START, str(root / "options" / "realesrgan_x4.yml"), *sets]

        def start() -> None:
            subprocess.run(line, check=True, capture_output=True)

        return compare("start", [Arm("ours", start)], rounds=args.pairs, device=args.device, memory=False)


def _log(args: argparse.Namespace) -> list[Row]:
    import bench_step
    from reference_step import Reference

    sizes = argparse.Namespace(**vars(args), feat=64, scale=4)
    torch.manual_seed(0)
    reference = Reference(sizes, rate=bench_step.RATE, gan_weight=bench_step.GAN_WEIGHT)
    start, batch = reference.start(), bench_step.batch_of(sizes)
    del reference
    with tempfile.TemporaryDirectory() as folder:
        engine = bench_step.engine_of(sizes, Path(folder, "run"), "fp32", {}, start, batch)
        raws: Any = repeat(RawBatch([]))
        bar = tqdm(file=StringIO())  # a disabled one would make `log` print lines

        def step(every: int = 1_000_000) -> None:
            engine.options.log.every = every
            engine.train_step(raws)

        with (
            closing(Tracker(Run(engine.options.folder, {}), {"tensorboard": TensorBoard()})) as tracker,
            closing(engine.saver),
        ):

            def logging() -> None:
                step(every=1)
                engine.log(tracker, bar, samples=args.batch, since=0.0)

            def saving() -> None:
                step()
                engine.save()
                step()

            def two() -> None:
                step()
                step()

            shared: dict[str, Any] = {"rounds": args.pairs, "device": args.device, "memory": False}
            rows = compare("a step", [Arm("plain", step), Arm("logs", logging)], **shared)
            wait = engine.saver.wait
            pair = [Arm("plain", two, reset=wait), Arm("the first saves", saving, reset=wait)]
            return rows + compare("two steps", pair, **shared)
