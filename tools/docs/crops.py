"""Draw a photograph and zoomed crops of it: bicubic, each model, and the ground truth.

python tools/docs/crops.py --model sr_compact_x4 --model RealESRGAN_x4plus --out docs/images/crops.webp

The LR image is the photograph, reduced by bicubic, with noise and JPEG compression. A model is a name or a file, with
another label as in `--model "ours=net_g_best.safetensors"`. A Y-PSNR of each is printed.
"""

import argparse
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from skimage import data

import sr
from sr.evaluate.metrics import METRICS

WIDTH, GAP, BAR = 1660, 8, 46  # twice the width at which GitHub shows a page; height of a label
COLORS = ("#e8502f", "#2f7fe8")


def degraded(photo: Image.Image, scale: int, *, noise: float, quality: int) -> Image.Image:
    """Reduce an image by bicubic, add Gaussian noise (in 8-bit steps) and compress it as JPEG."""
    low = photo.resize((photo.width // scale, photo.height // scale), Image.Resampling.BICUBIC)
    grain = np.random.default_rng(0).normal(0, noise, (low.height, low.width, 3))
    noisy = Image.fromarray((np.asarray(low) + grain).round().clip(0, 255).astype(np.uint8))
    file = io.BytesIO()
    noisy.save(file, "jpeg", quality=quality)
    return Image.open(file).convert("RGB")


def strip(columns: dict[str, Image.Image], regions: list[tuple[int, int]], side: int) -> Image.Image:
    """Draw the last image of `columns` with marked regions, then a row of zoomed crops for each region."""
    *_, truth = columns.values()
    crop = (WIDTH - GAP * len(columns)) * 10 // (10 * len(columns) + 17)
    left = WIDTH - len(columns) * (crop + GAP)
    canvas = Image.new("RGB", (WIDTH, BAR + len(regions) * (crop + GAP) - GAP), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=30)
    overview = _fitted(truth, left, canvas.height - BAR, regions, side)
    canvas.paste(overview, (0, BAR))
    pen.text((0, 4), "photograph", font=font, fill="black")
    for column, (label, image) in enumerate(columns.items()):
        x = left + GAP + column * (crop + GAP)
        while pen.textlength(label, font=font) > crop:
            font = ImageFont.load_default(size=font.size - 1)
        pen.text((x, 4), label, font=font, fill="black")
        for row, ((top, start), color) in enumerate(zip(regions, COLORS, strict=False)):
            y = BAR + row * (crop + GAP)
            box = (start, top, start + side, top + side)
            canvas.paste(image.crop(box).resize((crop, crop), Image.Resampling.LANCZOS), (x, y))
            pen.rectangle((x, y, x + crop - 1, y + crop - 1), outline=color, width=4)
    return canvas


def _fitted(photo: Image.Image, width: int, height: int, regions: list[tuple[int, int]], side: int) -> Image.Image:
    """Cut the photograph to the shape of the panel, around the regions, and mark them."""
    wide = min(photo.width, photo.height * width // height)
    high = min(photo.height, wide * height // width)
    middle = [sum(region[axis] for region in regions) // len(regions) + side // 2 for axis in (1, 0)]
    x, y = (min(max(m - n // 2, 0), full - n) for m, n, full in zip(middle, (wide, high), photo.size, strict=True))
    panel = photo.crop((x, y, x + wide, y + high)).resize((width, height), Image.Resampling.LANCZOS)
    pen, zoom = ImageDraw.Draw(panel), width / wide
    for (top, start), color in zip(regions, COLORS, strict=False):
        box = [(start - x) * zoom, (top - y) * zoom]
        pen.rectangle((*box, box[0] + side * zoom, box[1] + side * zoom), outline=color, width=5)
    return panel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--image", type=Path, help="the photograph (default: coffee of scikit-image)")
    add("--model", action="append", default=[], metavar="[LABEL=]MODEL", help="a column; may be repeated")
    add("--region", action="append", metavar="TOP,LEFT", help="corner of a crop in pixels, at most two")
    add("--side", type=int, default=88, help="side of the crops in pixels (%(default)s)")
    add("--noise", type=float, default=4, help="standard deviation, in 8-bit steps (%(default)s)")
    add("--quality", type=int, default=75, help="of the JPEG compression (%(default)s)")
    add("--out", type=Path, required=True, help=".webp or .png")
    args = parser.parse_args()
    photo = Image.open(args.image).convert("RGB") if args.image else Image.fromarray(data.coffee())
    photo = photo.crop((0, 0, photo.width // 4 * 4, photo.height // 4 * 4))
    low = degraded(photo, 4, noise=args.noise, quality=args.quality)
    columns = {"bicubic": low.resize(photo.size, Image.Resampling.BICUBIC)}
    for given in args.model:
        label, _, model = given.rpartition("=")
        columns[label or Path(model).stem] = sr.load(model)(low)
    columns["ground truth"] = photo
    tensors = {name: torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 for name, image in columns.items()}
    for name, tensor in tensors.items():
        if name != "ground truth":
            value = METRICS["psnr_y"].measure(tensor, tensors["ground truth"], border=4)
            print(f"{name}: Y-PSNR {value:.2f} dB")
    regions = [(int(top), int(left)) for top, _, left in (text.partition(",") for text in args.region or REGIONS)]
    strip(columns, regions, args.side).save(args.out, quality=90, method=6)
    print(f"{args.out}: {args.out.stat().st_size // 1000} kB")


REGIONS = ("58,345", "238,322")

if __name__ == "__main__":
    main()
