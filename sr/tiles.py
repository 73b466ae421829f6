"""Large images through a network in tiles that overlap, so that only a tile is ever on the device."""

from collections.abc import Callable
from itertools import pairwise, product

import torch
import torch.nn.functional as F
from torch import Tensor

from sr.errors import UserError


def check_overlap(tile: int, overlap: int) -> None:
    """Raises UserError for an overlap below 0 or above half a tile (tile 0: no tiles, any overlap)."""
    if tile and not 0 <= 2 * overlap <= tile:
        raise UserError(f"overlap is {overlap} with tiles of {tile}; give 0 to {tile // 2}, or larger tiles")


@torch.no_grad()
def tiled(
    net: Callable[[Tensor], Tensor],
    lq: Tensor,
    *,
    scale: int,
    tile: int,
    overlap: int,
    multiple: int = 1,
    batch: int = 1,
    device: torch.device | str | None = None,
    on_tiles: Callable[[int, int], None] | None = None,
) -> Tensor:
    """`net(lq)` in tiles of one size: float32 [1, c, h*scale, w*scale] on lq's own device.

    lq: [1, 3, h, w]. tile, overlap: input pixels; tile 0 takes the image whole. Tiles are as wide as a multiple of
    `multiple` and start at one, so that a network that folds pixels into channels sees all in the image's own phase.
    Neighbours are cross-faded over the middle quarter of their overlap: every pixel that counts lies at least 3/8 of
    `overlap` inside its tile, and tiled equals whole for a network that reaches no further than that.
    device: where net runs (default: where lq is). on_tiles: called with (done, all) after every `batch` tiles.
    """
    check_overlap(tile, overlap)
    height, width = lq.shape[-2:]
    lq = _padded(lq, multiple)
    rows, columns = (_axis(side, tile, overlap, multiple, scale) for side in lq.shape[-2:])
    places = list(product(rows, columns))
    output = torch.empty(0)
    for first in range(0, len(places), batch):
        chosen = places[first : first + batch]
        tiles = torch.cat([lq[..., row, column] for (row, _), (column, _) in chosen])
        results = net(tiles.to(device or lq.device)).to(lq.device, torch.float32)
        if first == 0:
            output = results.new_zeros(1, results.shape[1], lq.shape[-2] * scale, lq.shape[-1] * scale)
        for ((row, down), (column, across)), result in zip(chosen, results, strict=True):
            share = (down[:, None] * across).to(result)
            output[0, :, _enlarged(row, scale), _enlarged(column, scale)] += result * share
        if on_tiles is not None:
            on_tiles(first + len(chosen), len(places))
    return output[..., : height * scale, : width * scale]


def _padded(lq: Tensor, multiple: int) -> Tensor:
    """Extended to the right and down to a multiple, mirrored where there is enough to mirror."""
    bottom, right = ((-side) % multiple for side in lq.shape[-2:])
    mirrors = bottom < lq.shape[-2] and right < lq.shape[-1]
    return F.pad(lq, (0, right, 0, bottom), mode="reflect" if mirrors else "replicate") if bottom or right else lq


def _axis(side: int, tile: int, overlap: int, multiple: int, scale: int) -> list[tuple[slice, Tensor]]:
    """Each tile's input pixels along an axis, and its share in the output pixels there.

    As few tiles as will do, evenly spread, so that they overlap by more than asked where that costs nothing.
    The shares at each output pixel add up to 1, and the first and last tile have the whole edge to themselves.
    """
    length = min(-(-tile // multiple) * multiple or side, side)  # side is a multiple already
    last, step = side - length, max((length - overlap) // multiple * multiple, multiple)
    gaps = -(-last // step)
    starts = [last * n // gaps // multiple * multiple for n in range(gaps)] + [last]
    pixels = (torch.arange(side * scale) + 0.5) / scale
    rises = [torch.ones_like(pixels)]  # how far each tile has taken over from the one before
    for before, start in pairwise(starts):
        common = before + length - start
        rises.append(((pixels - start - common / 2) / (common / 4) + 0.5).clamp(0, 1))
    rises.append(torch.zeros_like(pixels))
    spans = [slice(start, start + length) for start in starts]
    shares = [rise - fall for rise, fall in pairwise(rises)]
    return [(span, share[_enlarged(span, scale)]) for span, share in zip(spans, shares, strict=True)]


def _enlarged(span: slice, scale: int) -> slice:
    return slice(span.start * scale, span.stop * scale)
