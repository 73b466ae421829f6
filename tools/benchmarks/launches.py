"""Count kernel launches, host syncs, copies and host time of each phase of a training step, without a GPU.

    python tools/benchmarks/launches.py options/realesrgan_x4.yml --batch 12 --reference
    python tools/benchmarks/launches.py --upscale 1080 1920

Runs on the null GPU (tests/null_gpu), which executes no kernels, so host time is all that it takes. --reference: also
BasicSR's `optimize_parameters` in fp32, without its degradation, on the same instrument.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
SETS = [
    "train.cuda_graph=false",
    "train.compile=false",
    "data.workers=0",
    "validation.sets={}",
    "losses.perceptual.weights=random",
    "log.every=1000000",
]


class Phases:
    """Counters of the null GPU and host seconds by phase."""

    def __init__(self) -> None:
        self.rows: dict[str, Counter[str]] = {}

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        from tests import null_gpu

        def counted(*args: Any, **kwargs: Any) -> Any:
            null_gpu.reset()
            began = time.process_time_ns()
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.process_time_ns() - began
                self.rows.setdefault(name, Counter()).update({"ns": spent} | null_gpu.counts())

        return counted

    def report(self, steps: int) -> dict[str, dict[str, float]]:
        """Return launches, syncs, copies from pageable memory and ms of a step, for each phase and in total."""
        kinds = {"launches": ["LAUNCH"], "syncs": ["SYNC"], "ms": ["ns"]}
        kinds["pageable"] = ["memcpy HtoD PAGEABLE", "memcpy DtoH PAGEABLE"]
        table = {
            name: {kind: sum(row[key] for key in keys) / steps for kind, keys in kinds.items()}
            for name, row in self.rows.items()
        }
        table["step"] = {kind: sum(row[kind] for row in table.values()) for kind in kinds}
        return {name: row | {"ms": row["ms"] / 1e6} for name, row in table.items()}


def ours(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure the steps of the trainer."""
    import torch

    from sr.train.builder import Builder, load
    from tests import null_gpu
    from tests.null_gpu.__main__ import ignore_values

    if not args.real:
        ignore_values()
    sets = [f"data.batch_size={args.batch}", f"data.source={{type: folder, gt: {photos(folder)}}}", f"out={folder}"]
    engine = Builder(load(args.options, [*SETS, *sets, *args.set])).trainer()
    batches = engine.batches(0)
    if engine.graphs is not None:
        return replayed(engine, next(batches), args.steps)
    raws = [next(batches) for _ in range(args.steps + 1)]
    engine.train_step(iter(raws[:1]))  # allocates, and compiles if asked to
    torch.cuda.reset_peak_memory_stats()
    if args.real:
        for number in range(1, args.steps + 1):
            engine.train_step(iter(raws[number : number + 1]))
        return {"phases": {}, "peak_gib": torch.cuda.max_memory_allocated() / 2**30}
    phases = Phases()
    engine.prepare = phases.wrap("degradation", engine.prepare)
    engine.ema.update = phases.wrap("ema", engine.ema.update)  # type: ignore[method-assign]
    engine.meter.add = phases.wrap("meter", engine.meter.add)  # type: ignore[method-assign]
    for name, player in engine.players.items():
        player.backend.backward = phases.wrap(f"{name} backward", player.backend.backward)  # type: ignore[method-assign]
        player.backend.step = phases.wrap(f"{name} optimizer", player.backend.step)  # type: ignore[method-assign]
    step = engine.task.step

    def forward(*given: Any) -> Iterator[Any]:
        made = iter(step(*given))
        for name in (*(f"{name} forward" for name in engine.task.players), "generator forward"):
            try:
                yield phases.wrap(name, made.__next__)()
            except StopIteration:
                return

    engine.task.step = forward  # type: ignore[method-assign]
    null_gpu.reset()
    for number in range(1, args.steps + 1):
        engine.train_step(iter(raws[number : number + 1]))
    peak = torch.cuda.max_memory_allocated() / 2**30
    null_gpu.reset()
    engine.meter.read()
    return {"phases": phases.report(args.steps), "peak_gib": peak, "log": null_gpu.counts()}


def replayed(engine: Any, raw: Any, steps: int) -> dict[str, Any]:
    """Measure steps that replay CUDA graphs, without degradation."""
    import torch

    from tests import null_gpu

    pair = engine.prepare(raw)
    engine.prepare = lambda raw: pair
    for _ in range(5):  # records
        engine.train_step(iter([raw]))
    phases = Phases()
    for _ in range(steps):
        phases.wrap("replayed, without degradation", engine.train_step)(iter([raw]))
    peak = torch.cuda.max_memory_allocated() / 2**30
    null_gpu.reset()
    engine.meter.read()
    return {"phases": phases.report(steps), "peak_gib": peak, "log": null_gpu.counts()}


def reference(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the steps of BasicSR."""
    import torch
    from bench_step import GAN_WEIGHT, RATE, batch_of
    from reference_step import Reference

    torch.backends.cudnn.benchmark = True  # as BasicSR's train.py sets it
    sizes = argparse.Namespace(scale=4, gt=256, feat=64, blocks=23, batch=args.batch, device="cuda")
    made = Reference(sizes, rate=RATE, gan_weight=GAN_WEIGHT)
    made.give(batch_of(sizes))
    made.step()
    torch.cuda.reset_peak_memory_stats()
    phases = Phases()
    run = phases.wrap("BasicSR", made.step)
    for _ in range(args.steps):
        run()
    return {"phases": phases.report(args.steps), "peak_gib": torch.cuda.max_memory_allocated() / 2**30}


def upscaling(height: int, width: int) -> dict[str, Any]:
    """Measure upscaling an 8-bit image by an RRDBNet 64/23 x4, up to the 8-bit pixels that are encoded."""
    import torch

    from sr.images import ImageData
    from sr.images.write import quantized
    from sr.inference.upscale import Upscaler
    from sr.nets.io.load import Model
    from sr.nets.rrdbnet import RRDBNet
    from tests import null_gpu
    from tests.null_gpu.__main__ import ignore_values

    ignore_values()
    model = Model(RRDBNet(scale=4).eval(), 4, 1, "RRDBNet")
    upscaler = Upscaler(model, device="cuda", precision="auto", tile=None, overlap=None)
    image = ImageData(torch.rand(3, height, width))
    phases = Phases()
    for count in range(3):
        if count == 1:  # the first image chooses precision and tiles, and allocates
            phases.rows.clear()
            torch.cuda.reset_peak_memory_stats()
            null_gpu.reset()
        finish = phases.wrap("network and tiles", upscaler.start)([image], quantize=True)
        [made] = phases.wrap("wait and copy", finish)()
        phases.wrap("8-bit pixels", quantized)(made, deep=False, clear=True)
    print(upscaler.way)
    return {"phases": phases.report(2), "peak_gib": torch.cuda.max_memory_allocated() / 2**30}


def photos(folder: Path) -> Path:
    """Write images of 480 x 480 pixels to crop from."""
    import numpy as np
    from PIL import Image

    made = folder / "photos"
    made.mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (60, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels.repeat(8, 0).repeat(8, 1)).save(made / f"{number}.png")
    return made


def table(name: str, found: dict[str, Any]) -> str:
    lines = [f"| {name} | launches | syncs | pageable copies | host ms |", "|---|---|---|---|---|"]
    for phase, row in found["phases"].items():
        lines.append(f"| {phase} | {row['launches']:.0f} | {row['syncs']:g} | {row['pageable']:g} | {row['ms']:.1f} |")
    return "\n".join([*lines, f"peak memory: {found['peak_gib']:.2f} GiB"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("options", nargs="?", default="options/realesrgan_x4.yml", help="(%(default)s)")
    parser.add_argument("--batch", type=int, default=12, help="images per batch (%(default)s)")
    parser.add_argument("--steps", type=int, default=3, help="counted steps after the first one (%(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override an option")
    parser.add_argument("--reference", action="store_true", help="also measure BasicSR")
    parser.add_argument("--gib", type=float, default=139.8, help="memory of the null GPU (%(default)s)")
    parser.add_argument("--upscale", type=int, nargs=2, metavar=("H", "W"), help="upscale an image instead")
    parser.add_argument("--real", action="store_true", help="on the GPU of this machine: only its peak memory")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    args = parser.parse_args()
    if "NULL_GPU_GIB" not in os.environ and not args.real:
        from tests import null_gpu

        if reason := null_gpu.missing():
            sys.exit(f"launches: {reason}; install torch's CUDA build for Linux")
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        env = {**os.environ, "PYTHONPATH": path, **null_gpu.environment(gib=args.gib)}
        return subprocess.run([sys.executable, *sys.argv], env=env).returncode
    with tempfile.TemporaryDirectory() as folder:
        if args.upscale:
            found = {"upscaling": upscaling(*args.upscale)}
        else:
            found = {"ours": ours(args, Path(folder))} | ({"BasicSR": reference(args)} if args.reference else {})
    for name, rows in found.items():
        print(table(name, rows) + "\n")
    if args.json:
        args.json.write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
