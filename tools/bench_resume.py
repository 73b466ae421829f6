"""Resuming far into a large data set, and what logging and saving add to a step.

--part resume: from the shards' index to the first batch, at a position deep in an epoch and at its beginning.
--part start: from the start of a process to the first degraded batch of options/realesrgan_x4.yml, nets built and data
open (one picture, batch 1, VGG's weights random): what comes before the first step.
--part log: a plain step, one that logs (shares of the losses, files written) and one that saves a checkpoint, with the
nets of `step`; the checkpoint is written by a thread while the next steps run, so a round of `saves` is two steps.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from contextlib import closing
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_harness import Arm, Row, compare
from PIL import Image
from tqdm import tqdm

from sr.batch import Raw
from sr.data.index import Entry, index_of, save, write_folder_index
from sr.data.make import make_shards
from sr.data.order import WINDOW, Order
from sr.data.shards import ShardSource
from sr.data.stream import Stream
from sr.track import Tracker

SEED = 0


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--part", choices=["resume", "start", "log"], default="resume", help="(%(default)s)")
    parser.add_argument("--samples", type=int, default=500_000_000, help="in the index (%(default)s)")
    parser.add_argument("--position", type=int, default=400_000_000, help="to continue from (%(default)s)")
    parser.add_argument("--per-shard", type=int, default=10_000, help="samples (%(default)s)")
    parser.add_argument("--gt", type=int, default=256, help="side of a ground truth in pixels (%(default)s)")
    parser.add_argument("--batch", type=int, default=2, help="images (%(default)s)")
    parser.add_argument("--blocks", type=int, default=23, help="RRDBs of the generator (%(default)s)")


def run(args: argparse.Namespace) -> list[Row]:
    return {"resume": _resume, "start": _start, "log": _log}[args.part](args)


def _resume(args: argparse.Namespace) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder, "shards")
        _write_shards(args, shards, Path(folder, "one"))

        def first_batch(position: int) -> None:
            source = ShardSource(path=str(shards))
            sizes = {"scale": 4, "gt_size": args.gt, "crop_size": args.gt, "batch_size": args.batch}
            with closing(Stream(source, seed=SEED, **sizes).batches(position)) as batches:
                raw = next(batches)
                assert raw.groups[0].positions[0] == position
                assert not raw.bad

        arms = [Arm(f"from sample {at:,}", lambda at=at: first_batch(at)) for at in (0, args.position)]
        work = f"index of {args.samples:,} samples in shards of {args.per_shard:,}"
        return compare(work, arms, rounds=args.pairs, device=args.device, memory=False)


def _write_shards(args: argparse.Namespace, shards: Path, one: Path) -> None:
    """An index of that many samples; the shards that are read from are one real shard under many names."""
    one.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (args.gt, args.gt, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(one / "photo.png")
    make_shards([one / "photo.png"], one, size=args.gt, step=args.gt, format="png", per_shard=1, progress=False)
    tar = next(one.glob("*.tar"))
    sample = index_of(tar)
    many = replace(sample, keys=sample.keys * args.per_shard, spans=np.repeat(sample.spans, args.per_shard, axis=0))
    save(tar, many)
    counts = [args.per_shard] * (args.samples // args.per_shard)
    order = Order(counts, seed=SEED)
    real = {shard for at in (0, args.position) for shard in order.coming(*order.window(at))}
    shards.mkdir()
    entries = {}
    for number in range(len(counts)):
        name = f"{number:06}.tar"
        if number in real:
            os.link(tar, shards / name)
            os.link(tar.with_suffix(".index.json"), shards / f"{number:06}.index.json")
        else:
            (shards / name).touch()
        entries[name] = Entry(args.per_shard, many.bytes, many.sha256)
    write_folder_index(shards, entries)
    assert len(real) <= 4 * WINDOW


START = """
import sys
from sr.build import Build, load
engine = Build(load(sys.argv[1], sys.argv[2:])).engine()
engine.prepare(next(engine.batches(0)))
"""


def _start(args: argparse.Namespace) -> list[Row]:
    root = Path(__file__).resolve().parents[1]
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
        engine = bench_step.engine_of(sizes, Path(folder, "run"), "fp32", False, start, batch)
        raws: Any = repeat(Raw([]))
        plans = {every: replace(engine.plan, log_every=every) for every in (1, 1_000_000)}

        def step(every: int = 1_000_000) -> None:
            engine.plan = plans[every]
            engine.train_step(raws)

        with closing(Tracker(engine.plan.folder, resume_step=0)) as tracker, closing(engine.saver):

            def logging() -> None:
                step(every=1)
                engine.log(tracker, tqdm(disable=True), samples=args.batch, since=0.0)

            def saving() -> None:
                step()
                engine.save()
                step()

            def two() -> None:
                step()
                step()

            shared = {"rounds": args.pairs, "device": args.device, "memory": False}
            rows = compare("step that logs", [Arm("plain", step), Arm("logs", logging)], **shared)
            quiet = {"reset": engine.saver.wait}
            return rows + compare(
                "two steps", [Arm("plain", two, **quiet), Arm("one saves", saving, **quiet)], **shared
            )
