"""Draw a curve with labelled axes."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

LEFT, TOP, RIGHT, BOTTOM = 64, 26, 28, 44  # pixels for the numbers and labels


def plot(
    points: Sequence[tuple[float, float]],
    *,
    x: str,
    y: str,
    size: tuple[int, int] = (640, 240),
    log_x: bool = False,
    mark: float | None = None,
) -> Image.Image:
    """Draw a curve through points that are sorted by their first coordinate.

    Args:
        x: label below the horizontal axis; y: label above the vertical axis.
        log_x: whether the horizontal axis is logarithmic.
        mark: where to draw a vertical line.
    """
    along = math.log10 if log_x else float
    steps, values = zip(*((along(step), value) for step, value in points), strict=True)
    canvas = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    box = (LEFT, TOP, size[0] - RIGHT, size[1] - BOTTOM)
    rows = ticks(min(values), max(values))
    low, high = min(rows[0], min(values)), max(rows[-1], max(values))
    first, last = steps[0], steps[-1] if steps[-1] > steps[0] else steps[0] + 1
    across = [float(n) for n in range(math.ceil(first), math.floor(last) + 1)] if log_x else ticks(steps[0], steps[-1])

    def place(step: float, value: float) -> tuple[float, float]:
        right = box[0] + (box[2] - box[0]) * (step - first) / (last - first)
        return right, box[3] - (box[3] - box[1]) * (value - low) / (high - low)

    for value in rows:
        height = place(first, value)[1]
        pen.line((box[0], height, box[2], height), fill="#ddd")
        pen.text((box[0] - 6, height), f"{value:.4g}", font=font, fill="black", anchor="rm")
    for step in across:
        right = place(step, low)[0]
        pen.line((right, box[3], right, box[3] + 4), fill="black")
        shown = f"1e{step:.0f}" if log_x else f"{step:g}"
        pen.text((right, box[3] + 6), shown, font=font, fill="black", anchor="ma")
    if mark is not None:
        right = place(along(mark), low)[0]
        pen.line((right, box[1], right, box[3]), fill="#36c")
    pen.rectangle(box, outline="#999")
    pen.line([place(*point) for point in zip(steps, values, strict=True)], fill="#c33", width=2)
    pen.text((box[0], 6), y, font=font, fill="black")
    pen.text(((box[0] + box[2]) / 2, size[1] - 18), x, font=font, fill="black", anchor="ma")
    return canvas


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers from `low` to `high`, about `count`, at least two."""
    rough = max(high - low, abs(high) * 1e-6, 1e-9) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    start = math.ceil(low / step - 1e-9)
    found = [step * n for n in range(start, math.floor(high / step + 1e-9) + 1)]
    return found if len(found) > 1 else [step * math.floor(low / step), step * (math.floor(low / step) + 1)]
