"""Draw tags of the log of a run as curves in one image.

python tools/docs/draw_curves.py runs/rrdb_small_x4/log.jsonl --tag val/Set5/psnr_y --tag g/pixel --out curves.png
"""

import argparse
import json
import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Rows = list[dict[str, float]]


def read(log: Path) -> Rows:
    return [json.loads(line) for line in log.read_text().splitlines()]


LEFT, TOP, BOTTOM = 64, 26, 44  # pixels for the numbers, the title and the steps


def draw_curve(log: Rows, title: str, tags: tuple[str, ...], size: tuple[int, int]) -> Image.Image:
    """Draw the sum of the tags over the steps, with ticks and labels on both axes."""
    points = [(row["step"], sum(row[tag] for tag in tags)) for row in log if all(tag in row for tag in tags)]
    steps, values = zip(*points, strict=True)
    canvas = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    box = (LEFT, TOP, size[0] - 28, size[1] - BOTTOM)
    across, rows = ticks(steps[0], steps[-1]), ticks(min(values), max(values))
    low, high = min(rows[0], min(values)), max(rows[-1], max(values))
    first, last = steps[0], max(steps[-1], steps[0] + 1)

    def place(step: float, value: float) -> tuple[float, float]:
        x = box[0] + (box[2] - box[0]) * (step - first) / (last - first)
        return x, box[3] - (box[3] - box[1]) * (value - low) / (high - low)

    for value in rows:
        y = place(first, value)[1]
        pen.line((box[0], y, box[2], y), fill="#ddd")
        pen.text((box[0] - 6, y), f"{value:.4g}", font=font, fill="black", anchor="rm")
    for step in across:
        x = place(step, low)[0]
        pen.line((x, box[3], x, box[3] + 4), fill="black")
        pen.text((x, box[3] + 6), f"{step:g}", font=font, fill="black", anchor="ma")
    pen.rectangle(box, outline="#999")
    pen.line([place(*point) for point in points], fill="#c33", width=2)
    pen.text((box[0], 6), title, font=font, fill="black")
    pen.text(((box[0] + box[2]) / 2, size[1] - 18), "step", font=font, fill="black", anchor="ma")
    return canvas


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers from `low` to `high`, about `count`, at least two."""
    rough = max(high - low, abs(high) * 1e-6, 1e-9) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    start = math.ceil(low / step - 1e-9)
    found = [step * n for n in range(start, math.floor(high / step + 1e-9) + 1)]
    return found if len(found) > 1 else [step * math.floor(low / step), step * (math.floor(low / step) + 1)]


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
