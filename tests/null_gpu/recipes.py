"""Step every recipe of options/ on a null GPU: `python -m tests.null_gpu.recipes FOLDER [NAME]` prints waits as JSON.

Networks and crops are small where the recipe allows it. FOLDER gets images and the runs. Per recipe: waits and pageable
copies of a step, of a step that logs, and waits of reading the log.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sr.nets.io.load import architecture
from sr.nets.io.state_dicts import save_safetensors
from sr.nets.rrdbnet import RRDBNet
from sr.train.builder import Builder, load
from tests import null_gpu
from tests.helpers.program import ROOT
from tests.null_gpu.__main__ import ignore_values

SMALL: dict[str, dict[str, Any]] = {
    "rrdbnet": {"num_feat": 16, "num_block": 1, "num_grow_ch": 16},
    "compact": {"num_feat": 16, "num_conv": 2},
    "unet_128": {"num_feat": 16},
    "unet_256": {"num_feat": 16},
    "resnet_9blocks": {"num_feat": 16},
}
FIXED = [
    "data.workers=0",
    "data.batch_size=2",
    "data.make=null",
    "validation.sets={}",
    "log.every=1000000",
    "train.compile=false",
]


def images(folder: Path) -> None:
    for name, width in (("photos", 480), ("pairs", 960)):
        (folder / name).mkdir(parents=True)
        for number in range(4):
            pixels = np.random.default_rng(number).integers(0, 256, (60, width // 8, 3), dtype=np.uint8)
            Image.fromarray(pixels.repeat(8, 0).repeat(8, 1)).save(folder / name / f"{number}.png")
    sizes = {"scale": 4, "num_feat": 16, "num_block": 1}
    save_safetensors(folder / "teacher.safetensors", RRDBNet(**sizes).state_dict(), architecture("rrdbnet", sizes))


def overrides(options: Any, folder: Path) -> list[str]:
    """The settings that make a recipe small, and independent of data sets and downloads."""
    photos = f"{{type: folder, gt: {folder / 'photos'}}}"
    sources = {
        "side_by_side": f"{{type: side_by_side, path: {folder / 'pairs'}}}",
        "unpaired": f"{{type: unpaired, a: {photos}, b: {photos}}}",
        "colorize": f"{{type: colorize, space: lab, of: {photos}}}",
        "edges": f"{{type: edges, method: canny, of: {photos}}}",
    }
    sets = [*FIXED, f"out={folder / 'runs'}", f"data.source={sources.get(options.data.source['type'], photos)}"]
    if options.task in ("psnr", "sr_gan") and not options.generator["type"].startswith("spandrel"):  # masks fit a size
        side = (options.discriminator or {}).get("input_size", 64)
        sets += [f"data.gt_size={side}", f"data.degrade_size={side + 32}"]
    sets += [f"generator.{key}={value}" for key, value in SMALL.get(options.generator["type"], {}).items()]
    for name, loss in options.losses.reconstruction.items():
        sets += [f"losses.{name}.weights=random"] if loss["type"] in ("vgg19", "perceptual") else []
        sets += [f"losses.{name}.teacher={folder / 'teacher.safetensors'}"] if loss["type"] == "distill" else []
    return sets


def waits() -> int:
    found = null_gpu.counts()
    return found.get("SYNC", 0) + sum(number for name, number in found.items() if name.endswith("PAGEABLE"))


def measure(file: Path, folder: Path) -> dict[str, int]:
    options = load(str(file), FIXED)
    trainer = Builder(load(str(file), overrides(options, folder))).trainer()
    batches = trainer.batches(0)
    raws = [next(batches) for _ in range(4)]
    found = {}
    for raw in raws[:2]:
        trainer.train_step(iter([raw]))
    for name, every in (("step", 1_000_000), ("step that logs", 1)):
        trainer.options.log.every = every
        null_gpu.reset()
        trainer.train_step(iter([raws[2]]))
        found[name] = waits()
    null_gpu.reset()
    trainer.meter.read()
    return found | {"log": null_gpu.counts().get("SYNC", 0)}


def main() -> None:
    ignore_values()
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    images(folder)
    names = sys.argv[2:] or sorted(file.stem for file in (ROOT / "options").glob("*.yml"))
    print(json.dumps({name: measure(ROOT / "options" / f"{name}.yml", folder) for name in names}))


if __name__ == "__main__":
    main()
