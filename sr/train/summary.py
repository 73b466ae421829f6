"""Inspect options without training: parameter counts, batch arithmetic, and degraded images."""

import os
from pathlib import Path

import torch
from tqdm import tqdm

from sr.config.options import Options
from sr.core.errors import UserError
from sr.data.paths import image_paths
from sr.images import ImageData, read_pixels, write_image
from sr.inference.upscale import with_planes
from sr.tasks import TASKS
from sr.train.builder import Builder
from sr.train.plan_warnings import plan_warnings


def summary(options: Options, *, plugins: bool = True) -> str:
    """Return parameter counts, batch arithmetic and warnings; networks are built without memory for weights."""
    build, lines = Builder(options, plugins=plugins), []
    build.degradation(options.data.gt_size), build.schedule(), build.gan_loss()  # their constructors check the values
    with torch.device("meta"):
        for name in TASKS[options.task].players:
            net = build.nets.make(name)
            build.nets.freeze(name, net)
            sizes = [(parameter.numel(), parameter.requires_grad) for parameter in net.parameters()]
            count, frozen = sum(size for size, _ in sizes), sum(size for size, trained in sizes if not trained)
            rest = f", {frozen / 1e6:.3f} M of them frozen" if frozen else ""
            lines.append(f"{name:14s}{count / 1e6:.3f} M parameters{rest}")
    world, train, size = int(os.environ.get("WORLD_SIZE", "1")), options.train, options.data.batch_size
    if size % (world * train.accumulate):
        raise UserError(f"data.batch_size {size} does not split over {world} processes x accumulate {train.accumulate}")
    micro = size // (world * train.accumulate)
    lines.append(f"batch         {size} = {world} process(es) x accumulate {train.accumulate} x {micro} samples")
    lines.append(f"run           {train.total_steps} steps = {train.total_steps * size} samples")
    lines += [f"warning       {sentence}" for sentence in plan_warnings(build)]
    return "\n".join(lines)


def degrade_folder(options: Options, inputs: str, output: Path, *, plugins: bool = True) -> list[Path]:
    """Write the LR images that training would see for whole images; draws depend on the position in the list."""
    degradation, written = Builder(options, plugins=plugins).degradation(None), []
    for position, path in enumerate(tqdm(image_paths(inputs), unit="image", disable=None)):
        gt = torch.from_numpy(read_pixels(path, channels=options.channels[1]).copy()).permute(2, 0, 1)[None] / 255
        lq = degradation(gt, [position]).lq[0]
        written.append(output / f"{position:06d}_{path.stem}_lq{'.tif' if len(lq) > 4 else '.png'}")
        write_image(written[-1], with_planes(ImageData(lq[:3]), lq))
    return written
