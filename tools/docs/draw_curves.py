"""Draw tags of the log of a run as curves in one image.

python tools/docs/draw_curves.py runs/rrdb_small_x4/log.jsonl --tag val/Set5/psnr_y --tag g/pixel --out curves.png
"""

import argparse
import json
from pathlib import Path

from PIL import Image

from sr.report.plot import plot

Rows = list[dict[str, float]]


def read(log: Path) -> Rows:
    return [json.loads(line) for line in log.read_text().splitlines()]


def draw_curve(log: Rows, title: str, tags: tuple[str, ...], size: tuple[int, int]) -> Image.Image:
    """Draw the sum of the tags over the steps."""
    points = [(row["step"], sum(row[tag] for tag in tags)) for row in log if all(tag in row for tag in tags)]
    return plot(points, x="step", y=title, size=size)


def below(images: list[Image.Image]) -> Image.Image:
    """Stack images vertically."""
    sheet = Image.new("RGB", (max(p.width for p in images), sum(p.height for p in images)), "white")
    for number, image in enumerate(images):
        sheet.paste(image, (0, sum(p.height for p in images[:number])))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("--tag", action="append", required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    rows = read(args.log)
    below([draw_curve(rows, tag, (tag,), (640, 240)) for tag in args.tag]).save(args.out)


if __name__ == "__main__":
    main()
