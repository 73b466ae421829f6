"""Prove that a change leaves training bit for bit the same: ten steps of every recipe in options/, then a SHA-256.

Run the program of a checkout and write the digests, then compare two of these files:

    python tools/benchmarks/ten_steps.py CHECKOUT before.json
    python tools/benchmarks/ten_steps.py --compare before.json after.json

The recipes are made small by `--set` alone: few features, crops of 64 pixels, batches of 4, one thread. The images are
synthetic. Perceptual losses use random weights, and the teacher of the distillation is the small generator that
realesrnet_x4 trained before. `nets` covers the names, shapes and values of all weights (generator, discriminator, EMA);
`values` covers every tensor in the checkpoint, optimizer state included, without its name.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from safetensors.numpy import load_file

STEPS, SIZE, SEED = 10, 64, 7
NETS = ("generator", "discriminator", "ema")  # files of a checkpoint that hold weights
SMALL = {
    "rrdbnet": {"num_feat": 16, "num_block": 1, "num_grow_ch": 16},  # multiples of 16: the compiled convolutions run
    "compact": {"num_feat": 16, "num_conv": 2},
    "unet_128": {"num_feat": 16},
    "unet_256": {"num_feat": 16},
    "resnet_9blocks": {"num_feat": 16},
}
TEACHER = "realesrnet_x4"
LIMIT = 1200.0  # seconds for one recipe
DEGRADE_SIZE = ("degrade_size", "crop_size")  # the key's name now and in checkouts before its renaming


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("paths", nargs=2, type=Path, metavar="PATH", help="CHECKOUT OUTPUT, or A B with --compare")
    parser.add_argument("--compare", action="store_true", help="compare two output files; exit code 1 if they differ")
    parser.add_argument("--only", action="append", metavar="NAME", help="run this recipe only (may be repeated)")
    args = parser.parse_args()
    if args.compare:
        return compare(*(json.loads(path.read_text())["recipes"] for path in args.paths))
    checkout, output = (path.resolve() for path in args.paths)
    recipes = sorted((checkout / "options").glob("*.yml"), key=lambda path: (path.stem != TEACHER, path.stem))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder)
        rows = {}
        for recipe in recipes:
            if not args.only or recipe.stem in args.only:
                rows[recipe.stem] = row = measure(checkout, recipe, folder)
                print(f"{recipe.stem:22}", *(f"{key} {str(value)[:300]}" for key, value in row.items()), flush=True)
    commit = subprocess.run(["git", "-C", checkout, "describe", "--always", "--dirty"], capture_output=True, text=True)
    output.write_text(json.dumps({"commit": commit.stdout.strip(), "recipes": rows}, indent=1) + "\n")
    return int(any("error" in row for row in rows.values()))


def compare(before: dict[str, Any], after: dict[str, Any]) -> int:
    """Print a line per recipe; 0 if every recipe ran in both and its digests are equal."""
    different = 0
    for name in sorted({*before, *after}):
        rows = [recipes.get(name, {"error": "not run"}) for recipes in (before, after)]
        errors = [row["error"] for row in rows if "error" in row]
        differs = [key for key in ("nets", "values") if rows[0].get(key) != rows[1].get(key)]
        if not errors and "nets" in differs and rows[0]["nets_values"] == rows[1]["nets_values"]:
            differs[differs.index("nets")] = "names of weights"
        different += bool(errors or differs)
        print(f"{name:22} {'; '.join(errors) or ', '.join(differs) + ' differ' * bool(differs) or 'equal'}")
    print(f"{different} of {len({*before, *after})} recipes differ")
    return int(different > 0)


def write_images(folder: Path) -> None:
    """Eight smooth random photographs of 96 x 96, and eight pairs side by side of 256 x 128."""
    for name, height, width in (("photos", 96, 96), ("pairs", 128, 256)):
        (folder / name).mkdir()
        for number in range(8):
            coarse = np.random.default_rng(number).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
            image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
            image.save(folder / name / f"image_{number}.png")


def measure(checkout: Path, recipe: Path, folder: Path) -> dict[str, Any]:
    """Train `recipe` for ten steps and return the digests of its last checkpoint, or an error."""
    started, run = time.monotonic(), folder / "runs" / recipe.stem
    sets = [part for override in overrides(yaml.safe_load(recipe.read_text()), folder) for part in ("--set", override)]
    command = [sys.executable, "-m", "sr", "train", str(recipe), "--set", f"name={recipe.stem}", *sets]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    try:
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return {"error": f"no end after {LIMIT:.0f} s"}
    saved = run / "checkpoints" / f"step_{STEPS:08d}"
    if done.returncode or not saved.is_dir():
        return {"error": f"exit code {done.returncode}: {done.stderr.strip()[-2000:]}"}
    tensors = {file.stem: load_file(file) for file in sorted(saved.glob("*.safetensors"))}
    nets = {f"{group}/{name}": tensor for group in NETS if group in tensors for name, tensor in tensors[group].items()}
    return {
        "nets": digest(f"{name} {of(tensor)}" for name, tensor in nets.items()),
        "nets_values": digest(of(tensor) for tensor in nets.values()),
        "values": digest(of(tensor) for group in tensors.values() for tensor in group.values()),
        "files": {stem: len(group) for stem, group in tensors.items()},
        "seconds": round(time.monotonic() - started, 1),
    }


def overrides(recipe: dict[str, Any], folder: Path) -> list[str]:
    """The `--set` arguments that make a recipe small, and independent of data sets and downloads."""
    data, source = recipe["data"], recipe["data"]["source"]["type"]
    photos, pairs = f"{{type: folder, gt: {folder / 'photos'}}}", f"{{type: side_by_side, path: {folder / 'pairs'}}}"
    side = 256 if recipe["generator"]["type"] == "unet_256" else 128 if recipe["task"] == "pix2pix" else SIZE
    side = recipe.get("discriminator", {}).get("input_size", side)  # the VGG discriminator has a fixed size
    sources = {
        "side_by_side": pairs,
        "unpaired": f"{{type: unpaired, a: {photos}, b: {photos}}}",
        "colorize": f"{{type: colorize, space: lab, of: {photos}}}",
        "edges": f"{{type: edges, method: canny, of: {photos}}}",
    }
    sets = [f"out={folder / 'runs'}", f"seed={SEED}", f"train.total_steps={STEPS}", "validation.sets={}"]
    sets += [f"save.every={STEPS}", "log.every=5", "data.batch_size=4", "data.workers=0", f"data.gt_size={side}"]
    if data.get("make"):
        sets += [f"data.source.path={folder / 'shards'}"]
    else:
        sets += [f"data.source={sources.get(source, photos)}"]
    sets += [f"data.load_size={side + 8}"] if "load_size" in data else []
    sets += [f"data.{key}={side + 16}" for key in DEGRADE_SIZE if key in data]
    sets += [f"generator.{key}={value}" for key, value in SMALL[recipe["generator"]["type"]].items()]
    sets += ["discriminator.num_feat=16"] if "discriminator" in recipe else []
    sets += ["losses.perceptual.weights=random"] if "perceptual" in recipe["losses"] else []
    if "distill" in recipe["losses"]:
        sets += [f"losses.distill.teacher={folder / 'runs' / TEACHER / 'models' / f'net_g_{STEPS}.safetensors'}"]
    return sets


def of(tensor: np.ndarray) -> str:
    """SHA-256 of dtype, shape and values."""
    return hashlib.sha256(f"{tensor.dtype} {tensor.shape} ".encode() + tensor.tobytes()).hexdigest()


def digest(lines: Any) -> str:
    """SHA-256 of the sorted lines."""
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
