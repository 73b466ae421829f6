"""Quality over time: train the same small generator with ours and with BasicSR, from the same initial weights.

    python tools/benchmarks/time_to_quality.py options/rrdb_small_x4.yml --minutes 10 20 40 \\
        --set data.source.path=datasets/photos

The options file is a PSNR recipe with an rrdbnet, shards, adam and a validation set. Both use its network, losses,
learning rate (constant, because the number of steps is unknown), batch size and EMA. BasicSR trains with its `SRModel`
and `PairedImageDataset` on PNG files of the same images and their bicubic LR images, with one worker. They alternate
every --slice seconds, and each has a clock that stops while the other trains and during validation by the same code.
Prints the mean psnr_y of the set at each time for both, of the EMA and of the trained network (--plot draws the
latter): for thousands of steps BasicSR's EMA contains a part of the random initial weights, which ours excludes.
"""

import argparse
import copy
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image, ImageDraw
from torch import nn
from tqdm import tqdm

from sr.core.errors import UserError
from sr.data import ShardSource
from sr.images import bicubic, write_rgb
from sr.nets.io.basicsr import basicsr
from sr.train.builder import Builder, load
from sr.train.trainer import Trainer

Curve = list[tuple[float, int, float, float]]
"""Seconds trained, steps, psnr_y of the EMA and of the trained network."""
SPAN = 8.0  # range of the plot in dB
Evaluate = Callable[[nn.Module], float]


class Arm(Protocol):
    name: str

    def step(self) -> None: ...

    def nets(self) -> tuple[nn.Module, nn.Module]:
        """Return the EMA network and the trained network."""


class Ours:
    name = "ours"

    def __init__(self, engine: Trainer) -> None:
        self.engine, self.batches = engine, engine.batches(0)

    def step(self) -> None:
        self.engine.train_step(self.batches)

    def nets(self) -> tuple[nn.Module, nn.Module]:
        with self.engine.ema.unsharded() as net:
            return copy.deepcopy(net), copy.deepcopy(self.engine.players["generator"].raw)


class Reference:
    """BasicSR's `SRModel` with `PairedImageDataset`."""

    name = "BasicSR"

    def __init__(self, engine: Trainer, options: Any, folder: Path) -> None:
        given, net = options.data, {k: v for k, v in options.generator.items() if k != "type"}
        rate = options.optimizer["generator"]
        opt = {
            "num_gpu": int(engine.device.type == "cuda"),
            "dist": False,
            "rank": 0,
            "is_train": True,
            "network_g": {"type": "RRDBNet", "num_in_ch": 3, "num_out_ch": 3, "scale": options.scale, **net},
            "path": {},
            "train": {
                "ema_decay": 0.999,
                "optim_g": {"type": "Adam", "lr": rate["lr"], "betas": rate.get("betas", [0.9, 0.999])},
                "scheduler": {"type": "MultiStepLR", "milestones": [10**9]},
                "total_iter": 10**9,
                "warmup_iter": -1,
                "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
            },
        }
        basicsr("archs.rrdbnet_arch"), basicsr("losses.basic_loss")
        self.model = basicsr("models.sr_model").SRModel(opt)
        for started in (self.model.net_g, self.model.net_g_ema):
            started.load_state_dict(engine.players["generator"].raw.state_dict())
        data = {
            "scale": options.scale,
            "phase": "train",
            "gt_size": given.gt_size,
            "use_hflip": True,
            "use_rot": given.rotate,
            "dataroot_gt": str(folder / "gt"),
            "dataroot_lq": str(folder / "lq"),
            "io_backend": {"type": "disk"},
        }
        dataset = basicsr("data.paired_image_dataset").PairedImageDataset(data)
        self.loader = torch.utils.data.DataLoader(
            dataset, given.batch_size, shuffle=True, num_workers=1, drop_last=True, persistent_workers=True
        )
        self.batches, self.steps = self._forever(), 0

    def _forever(self) -> Iterator[dict[str, Any]]:
        while True:
            yield from self.loader

    def step(self) -> None:
        self.steps += 1
        self.model.update_learning_rate(self.steps, warmup_iter=-1)
        self.model.feed_data(next(self.batches))
        self.model.optimize_parameters(self.steps)

    def nets(self) -> tuple[nn.Module, nn.Module]:
        return copy.deepcopy(self.model.net_g_ema), copy.deepcopy(self.model.net_g)


def as_files(source: ShardSource, folder: Path, scale: int) -> None:
    """Write the images of the shards and their MATLAB bicubic reductions as PNG files for BasicSR."""
    for name in ("gt", "lq"):
        (folder / name).mkdir()
    places = [(shard, index) for shard, count in enumerate(source.counts) for index in range(count)]
    for number, place in enumerate(tqdm(places, desc="images for BasicSR")):
        gt = torch.from_numpy(source.read(*place).gt).permute(2, 0, 1).float() / 255
        lq = bicubic.resize(gt[None], scale=1 / scale)[0].clamp(0, 1)
        for kind, image in (("gt", gt), ("lq", lq)):
            write_rgb(folder / kind / f"{number:06}.png", (image * 255).round().byte().permute(1, 2, 0).numpy())


def train(arms: list[Arm], evaluate: Evaluate, times: list[float], slice_s: float) -> dict[str, Curve]:
    """Train alternately, and evaluate when the clock of each reaches one of `times` (seconds)."""
    spent, steps = {arm.name: 0.0 for arm in arms}, {arm.name: 0 for arm in arms}
    curves: dict[str, Curve] = {arm.name: [] for arm in arms}
    with tqdm(total=round(times[-1] * len(arms)), unit="s") as bar:
        for until in times:
            while any(spent[arm.name] < until for arm in arms):
                for arm in arms:
                    start = time.perf_counter()
                    while (now := time.perf_counter() - start) < min(slice_s, until - spent[arm.name]):
                        arm.step()
                        steps[arm.name] += 1
                    spent[arm.name] += now
                    bar.update(round(now))
            for arm in arms:
                average, net = (evaluate(net) for net in arm.nets())
                curves[arm.name].append((spent[arm.name], steps[arm.name], average, net))
                scores = f"EMA {average:.4f} dB, network {net:.4f} dB"
                tqdm.write(f"{arm.name}: {until / 60:g} min, {steps[arm.name]} steps, {scores}")
    return curves


def draw(curves: dict[str, Curve], file: Path) -> None:
    """Draw psnr_y of the trained networks; values more than SPAN below the best are clamped."""
    (width, tall), colours = (680, 340), {"ours": "#c33", "BasicSR": "#36c"}
    canvas = Image.new("RGB", (width, tall), "white")
    pen = ImageDraw.Draw(canvas)
    values = [row[3] for curve in curves.values() for row in curve]
    high = max(values)
    low = max(min(values), high - SPAN)
    longest = max(row[0] for curve in curves.values() for row in curve)

    def at(seconds: float, value: float) -> tuple[float, float]:
        above = (max(value, low) - low) / max(high - low, 1e-9)
        return 40 + (width - 60) * seconds / longest, tall - 28 - (tall - 68) * above

    for value in range(math.ceil(low), math.floor(high) + 1):
        pen.line((at(0, value), at(longest, value)), fill="#ddd")
        pen.text((8, at(0, value)[1] - 6), str(value), fill="black")
    for seconds, *_ in curves["ours"]:
        pen.text((at(seconds, low)[0] - 6, tall - 20), f"{seconds / 60:.0f}", fill="black")
    pen.text((40, 6), "psnr_y of the trained network in dB over minutes of training", fill="black")
    for number, (name, curve) in enumerate(curves.items()):
        pen.line([at(seconds, value) for seconds, _, _, value in curve], fill=colours[name], width=2)
        pen.text((width - 140 + 70 * number, 6), name, fill=colours[name])
    canvas.save(file)


def measure(file: str, sets: list[str], folder: Path, times: list[float], *, slice_s: float) -> dict[str, Curve]:
    """Train both for `times` (seconds), with their files in `folder`. Returns the curves by name."""
    fixed = ["schedule={type: constant}", f"out={folder}/runs", "train.total_steps=1000000000"]
    options = load(file, [*sets, *fixed])
    if options.task != "psnr" or options.data.source["type"] != "shards":
        raise UserError(f"{file}: use a psnr recipe on shards, such as options/rrdb_small_x4.yml")
    engine = Builder(options).trainer()
    as_files(ShardSource(path=options.data.source["path"]), folder, options.scale)
    arms: list[Arm] = [Ours(engine), Reference(engine, options, folder)]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {engine.device}")

    def psnr(net: nn.Module) -> float:
        [scores] = engine.evaluate(net).means.values()
        return scores["psnr_y"]

    return train(arms, psnr, sorted(times), slice_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("options")
    parser.add_argument("--minutes", type=float, nargs="+", default=[10, 20, 40], help="times of evaluation (10 20 40)")
    parser.add_argument(
        "--slice", type=float, default=20.0, help="seconds of training before the other one continues (%(default)s)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        curves = measure(args.options, args.set, Path(folder), [60 * each for each in args.minutes], slice_s=args.slice)
    if args.plot:
        draw(curves, args.plot)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from None
