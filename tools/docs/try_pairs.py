"""Train several pairs of discriminator and GAN loss briefly from the same generator, and draw the results.

    python tools/docs/try_pairs.py --shards datasets/photos --init net_g_best.safetensors --hr DIR --out pairs.png

Needs shards of ground truth images and a generator of the PSNR stage. The image has a row per pair with the curves of
the discriminator loss and of the sharpness of the output, and a strip of a held-out image. Prints a table.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from draw_curves import below, draw_curve, read
from PIL import Image, ImageDraw

from sr.config.options import resolve
from sr.config.yaml_source import Document
from sr.nets.io.load import open_model
from sr.train.builder import TABLES, Builder

PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "unet_sn + vanilla": ({"type": "unet_sn", "num_feat": 16}, {"type": "vanilla"}),
    "patchgan spectral + lsgan": ({"type": "patchgan", "num_feat": 32, "norm": "spectral"}, {"type": "lsgan"}),
    "vgg + relativistic vanilla": ({"type": "vgg", "num_feat": 16}, {"type": "relativistic", "base": "vanilla"}),
    "multiscale patchgan + hinge + feature matching": (
        {"type": "multiscale", "num_scales": 2, "of": {"type": "patchgan", "num_feat": 16, "norm": "instance"}},
        {"type": "hinge", "regularizers": [{"type": "feature_matching", "weight": 0.01}]},
    ),
    "resnet 18 + softplus + r1": (
        {"type": "resnet", "num_layers": 18},
        {"type": "softplus", "regularizers": [{"type": "r1", "weight": 1.0, "every": 8}]},
    ),
}
SHOWN = ["g/gan", "d/real", "d/fake", "g/sharpness", "g/pixel"]  # means of the first and the last third of a run
CURVES = {"d/real + d/fake": ("d/real", "d/fake"), "g/sharpness": ("g/sharpness",)}


def options(args: argparse.Namespace, number: int, pair: str) -> dict[str, Any]:
    discriminator, gan = PAIRS[pair]
    generator = json.loads(open_metadata(args.init)["options"])["generator"]
    return {
        "name": f"pair_{number}",
        "out": args.runs,
        "task": "sr_gan",
        "scale": open_model(args.init).scale,
        "generator": generator,
        "discriminator": discriminator,
        "init": {"generator": args.init},
        "losses": {"pixel": {"type": "l1"}, "gan": {"weight": args.weight, **gan}},
        "degrade": [{"type": "downscale", "mode": "bicubic"}],
        "data": {"source": {"type": "shards", "path": args.shards}, "degrade_size": 152, "gt_size": 128, "batch_size":
        4,
                 "workers": 1, "rotate": True},
        "optimizer": {name: {"type": "adam", "lr": 1e-4} for name in ("generator", "discriminator")},
        "train": {"total_steps": args.steps, "ema_decay": 0.9},
        "validation": {"every": args.steps, "sets": {"held": {"hr": args.hr}}, "pictures": 1},
        "log": {"every": max(1, args.steps // 30)},
        "save": {"every": args.steps},
    }  # fmt: skip


def open_metadata(path: str) -> dict[str, str]:
    from sr.nets.io.state_dicts import load_weights

    return load_weights(path)[1]


def train(values: dict[str, Any]) -> tuple[list[dict[str, float]], np.ndarray]:
    """Train; return the entries of the log and the strip of the first held-out image."""
    chosen = resolve(Document(("try_pairs",), values, {}, {}), TABLES)
    engine = Builder(chosen).trainer()
    engine.run()
    log = read(chosen.folder / "log.jsonl")
    assert engine.evaluate is not None
    with torch.no_grad():
        strip = next(iter(engine.evaluate(engine.ema.net).images.values()))
    return log, strip


def draw_row(title: str, log: list[dict[str, float]], strip: np.ndarray) -> Image.Image:
    image = Image.fromarray(strip)
    height = image.height // len(CURVES)
    row = Image.new("RGB", (340 + image.width, image.height + 18), "white")
    ImageDraw.Draw(row).text((6, 3), title, fill="black")
    for number, (name, tags) in enumerate(CURVES.items()):
        row.paste(draw_curve(log, name, tags, (336, height)), (0, 18 + number * height))
    row.paste(image, (340, 18))
    return row


def mean(rows: list[dict[str, float]], key: str) -> float:
    return sum(row[key] for row in rows) / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("shards", "init", "hr", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--weight", type=float, default=0.1, help="weight of the GAN term (%(default)s)")
    parser.add_argument("--runs", default="runs/pairs")
    args = parser.parse_args()
    rows = []
    for number, pair in enumerate(PAIRS):
        log, strip = train(options(args, number, pair))
        entries = [row for row in log if "g/sharpness" in row]
        third = max(1, len(entries) // 3)
        shown = {key: f"{mean(entries[:third], key):.4g} -> {mean(entries[-third:], key):.4g}" for key in SHOWN}
        print(yaml.safe_dump({pair: shown}, width=200), flush=True)
        rows.append(draw_row(pair, log, strip))
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    below(rows).save(args.out)
    print(f"drawn in {args.out}")


if __name__ == "__main__":
    main()
