"""Inspect options without training: parameter counts, batch arithmetic, and degraded images."""

import os
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from sr.config.options import Options
from sr.core.errors import UserError
from sr.core.progress import progress
from sr.data.paths import image_paths
from sr.images import ImageData, read_pixels, write_image
from sr.inference.upscale import with_planes
from sr.tasks import TASKS
from sr.train.builder import Builder
from sr.train.plan_warnings import plan_warnings


class Summary(NamedTuple):
    """Parameters and frozen parameters of each network, batch arithmetic, and warnings. `str` shows it as a table."""

    parameters: dict[str, int]
    frozen: dict[str, int]
    processes: int
    accumulate: int
    samples_per_step: int
    steps: int
    warnings: list[str]

    def __str__(self) -> str:
        lines = []
        for name, count in self.parameters.items():
            rest = f", {self.frozen[name] / 1e6:.3f} M of them frozen" if self.frozen[name] else ""
            lines.append(f"{name:14s}{count / 1e6:.3f} M parameters{rest}")
        size, parts = self.samples_per_step, self.processes * self.accumulate
        split = f"{self.processes} process(es) x accumulate {self.accumulate} x {size // parts} samples"
        lines.append(f"batch         {size} = {split}")
        lines.append(f"run           {self.steps} steps = {self.steps * size} samples")
        return "\n".join([*lines, *(f"warning       {sentence}" for sentence in self.warnings)])


def summary(options: Options, *, plugins: bool = True) -> Summary:
    """Build all networks without memory for weights, and count."""
    build = Builder(options, plugins=plugins)
    counts: dict[str, int] = {}
    frozen: dict[str, int] = {}
    build.degradation(options.data.gt_size), build.schedule(), build.gan_loss()  # their constructors check the values
    build.trackers()
    with torch.device("meta"):
        for name in TASKS[options.task].players:
            net = build.nets.make(name)
            build.nets.freeze(name, net)
            counts[name] = sum(parameter.numel() for parameter in net.parameters())
            frozen[name] = sum(parameter.numel() for parameter in net.parameters() if not parameter.requires_grad)
    world, train, size = int(os.environ.get("WORLD_SIZE", "1")), options.train, options.data.batch_size
    if size % (world * train.accumulate):
        raise UserError(f"data.batch_size {size} does not split over {world} processes x accumulate {train.accumulate}")
    build.mixer(size // (world * train.accumulate))
    return Summary(counts, frozen, world, train.accumulate, size, train.total_steps, plan_warnings(build))


def degrade_folder(options: Options, inputs: str, output: Path, *, plugins: bool = True) -> list[Path]:
    """Write the LR images that training would see for whole images; draws depend on the position in the list."""
    degradation, written = Builder(options, plugins=plugins).degradation(None), []
    for position, path in enumerate(progress(image_paths(inputs), unit="image", desc="degrade")):
        pixels = read_pixels(path, channels=options.channels[1], deep=True)
        bits = 8 * pixels.itemsize
        gt = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None] / (2**bits - 1)
        lq = degradation.pairs(gt, [position], bits=bits)[0][0]
        written.append(output / f"{position:06d}_{path.stem}_lq{'.tif' if len(lq) > 4 else '.png'}")
        depth: Literal[8, 16] = 16 if (degradation.lq_bits or bits) == 16 else 8
        write_image(written[-1], with_planes(ImageData(lq[:3], bits=depth), lq))
    return written
