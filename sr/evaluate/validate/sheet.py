"""Strips and contact sheets: input, output and target with captions."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sr.images import bicubic

STRIP_SIDE = 640  # pixels that a cell shows at most: cells travel between ranks and into TensorBoard
HEAD, GAP = 16, 4  # a caption is larger above wide cells, to be legible in a thumbnail
ZOOM_SIDE = 96  # pixels of the detail below a strip
Cells = list[np.ndarray]


def captions(scale: int) -> tuple[str, str, str]:
    """What `cells` puts side by side."""
    return ("bicubic", "ours", "ground truth") if scale > 1 else ("input", "output", "target")


def cells(lq: Tensor, output: Tensor, gt: Tensor | None = None) -> Cells:
    """The input (upscaled by bicubic to the output's size), the output and the target if any, each uint8 [h, w, 3].

    lq: [c, h, w]; output, gt: [C, h*scale, w*scale], all in 0..1. Large images show their centre only.
    """
    scale = output.shape[-1] // lq.shape[-1]
    top, left = (max(0, side - STRIP_SIDE // scale) // 2 for side in lq.shape[-2:])
    enlarged = lq if scale == 1 else bicubic.resize(lq, size=(output.shape[-2], output.shape[-1]))
    shown = []
    for image in (enlarged, output) if gt is None else (enlarged, output, gt):
        window = visible(image)[:, top * scale :, left * scale :][:, :STRIP_SIDE, :STRIP_SIDE]
        shown.append((window.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())
    return shown


def zoomed(shown: Cells) -> Cells:
    """Enlarge the detail of largest contrast in the last cell, at the same place in every cell, to the cells' width."""
    height, width = shown[-1].shape[:2]
    side = min(ZOOM_SIDE, height, width)
    tops, lefts = (range(0, extent - side + 1, max(side // 2, 1)) for extent in (height, width))
    gray = shown[-1].mean(2)
    top, left = max(
        ((top, left) for top in tops for left in lefts),
        key=lambda at: gray[at[0] : at[0] + side, at[1] : at[1] + side].std(),
    )
    crops = (Image.fromarray(cell[top : top + side, left : left + side]) for cell in shown)
    return [np.asarray(crop.resize((width, width), Image.Resampling.NEAREST)) for crop in crops]


def visible(image: Tensor) -> Tensor:
    """[c, h, w] -> [3, h, w]: grey (1 channel, or 2 with alpha) is repeated; the first three of more channels."""
    return image[:1].expand(3, -1, -1) if image.shape[0] < 3 else image[:3]


def sheet(rows: Sequence[Sequence[np.ndarray]], captions: Sequence[str]) -> np.ndarray:
    """A contact sheet: rows of cells, uint8 [h, w, 3] of any size, under a caption for each column. uint8 [H, W, 3].

    captions: of the columns; those after the last column are not used.
    """
    widths = [max(cell.shape[1] for cell in column) for column in zip(*rows, strict=True)]
    heights = [max(cell.shape[0] for cell in row) for row in rows]
    head = max(HEAD, min(widths) // 14)
    size = sum(widths) + GAP * (len(widths) - 1), head + sum(heights) + GAP * (len(heights) - 1)
    made = Image.new("RGB", size, "white")
    lefts = [sum(widths[:n]) + GAP * n for n in range(len(widths))]
    for left, caption in zip(lefts, captions, strict=False):
        ImageDraw.Draw(made).text((left + 2, 2), caption, fill="black", font=ImageFont.load_default(head * 5 / 8))
    for n, row in enumerate(rows):
        top = head + sum(heights[:n]) + GAP * n
        for left, cell in zip(lefts, row, strict=True):
            made.paste(Image.fromarray(cell), (left, top))
    return np.asarray(made)
