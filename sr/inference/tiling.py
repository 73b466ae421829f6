"""Large images through a network in tiles that overlap, so that only a tile is ever on the device."""

import math
from collections.abc import Callable, Sequence
from itertools import groupby, islice, pairwise, product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sr.core.errors import UserError

TILE, OVERLAP = 256, 32  # input pixels, where nobody says or measures otherwise


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
    together: int = 0,
    device: torch.device | str | None = None,
    on_tiles: Callable[[int, int], None] | None = None,
) -> Tensor:
    """`net(lq)` in tiles of one size: float32 [1, c, h*scale, w*scale] on lq's own device.

    lq: [1, 3, h, w]. tile, overlap: input pixels, the largest and the smallest; tile 0 takes the image whole. Tiles
    are as wide as a multiple of `multiple` and start at one, so that a network that folds pixels into channels sees
    all in the image's own phase. Neighbours are cross-faded over the middle quarter of their overlap: every pixel that
    counts lies at least 3/8 of `overlap` inside its tile (see `overlap_for`), and tiled equals whole for a network that
    reaches no further than that.
    together: input pixels of tiles that share a batch (0: one tile alone). device: where net runs (default: where lq
    is); only a batch is ever there. on_tiles: called with (done, all) after every batch.
    """
    settings = {"scale": scale, "tile": tile, "overlap": overlap, "multiple": multiple, "together": together}
    return tiled_together(net, [lq], device=device, on_tiles=on_tiles, **settings)[0]


@torch.no_grad()
def tiled_together(
    net: Callable[[Tensor], Tensor],
    lqs: Sequence[Tensor],
    *,
    scale: int,
    tile: int,
    overlap: int,
    multiple: int = 1,
    together: int = 0,
    device: torch.device | str | None = None,
    on_tiles: Callable[[int, int], None] | None = None,
) -> list[Tensor]:
    """`tiled` of several images at once: tiles of equal size share a batch, whichever image they are of."""
    check_overlap(tile, overlap)
    sizes = [lq.shape[-2:] for lq in lqs]
    padded = [_padded(lq, multiple) for lq in lqs]
    places = [place for n, lq in enumerate(padded) for place in _places(n, lq, tile, overlap, multiple, scale)]
    places.sort(key=lambda place: place.shape)  # stable: the images stay in order
    outputs: dict[int, Tensor] = {}
    done = 0
    for (rows, columns), alike in groupby(places, key=lambda place: place.shape):
        while chosen := list(islice(alike, max(together // (rows * columns), 1))):
            tiles = torch.cat([padded[at.image][..., at.row, at.column] for at in chosen])
            results = net(tiles.to(device or tiles.device)).to(tiles.device, torch.float32)
            for at, result in zip(chosen, results, strict=True):
                if at.image not in outputs:
                    height, width = (side * scale for side in padded[at.image].shape[-2:])
                    outputs[at.image] = result.new_zeros(1, result.shape[0], height, width)
                share = (at.down[:, None] * at.across).to(result)
                outputs[at.image][0, :, _enlarged(at.row, scale), _enlarged(at.column, scale)] += result * share
            done += len(chosen)
            if on_tiles is not None:
                on_tiles(done, len(places))
    return [outputs[n][..., : height * scale, : width * scale] for n, (height, width) in enumerate(sizes)]


def overlap_for(reach: int, multiple: int = 1) -> int:
    """The least overlap whose seams a network that looks `reach` input pixels far cannot see."""
    return -(-math.ceil(reach * 8 / 3) // multiple) * multiple


class _Place(NamedTuple):
    """Of a tile: its image's number, its input pixels, and its share in the output pixels there along each axis."""

    image: int
    row: slice
    column: slice
    down: Tensor
    across: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.row.stop - self.row.start, self.column.stop - self.column.start


def _places(number: int, lq: Tensor, tile: int, overlap: int, multiple: int, scale: int) -> list[_Place]:
    rows, columns = (_axis(side, tile, overlap, multiple, scale) for side in lq.shape[-2:])
    return [_Place(number, row, column, down, across) for (row, down), (column, across) in product(rows, columns)]


def _padded(lq: Tensor, multiple: int) -> Tensor:
    """Extended to the right and down to a multiple, mirrored where there is enough to mirror."""
    bottom, right = ((-side) % multiple for side in lq.shape[-2:])
    mirrors = bottom < lq.shape[-2] and right < lq.shape[-1]
    return F.pad(lq, (0, right, 0, bottom), mode="reflect" if mirrors else "replicate") if bottom or right else lq


def _axis(side: int, tile: int, overlap: int, multiple: int, scale: int) -> list[tuple[slice, Tensor]]:
    """Each tile's input pixels along an axis, and its share in the output pixels there.

    As few tiles as will do, as short as will do, evenly spread. The shares at each output pixel add up to 1, and the
    first and last tile have the whole edge to themselves.
    """
    length = min(-(-tile // multiple) * multiple or side, side)  # side is a multiple already
    gaps = -(-(side - length) // _step(length, overlap, multiple))
    if gaps:
        shorter = -(-(side + gaps * overlap) // (gaps + 1) // multiple) * multiple
        while gaps * _step(shorter, overlap, multiple) + shorter < side:
            shorter += multiple
        length = min(length, shorter)
    last = side - length
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


def _step(length: int, overlap: int, multiple: int) -> int:
    """From the start of one tile to that of the next."""
    return max((length - overlap) // multiple * multiple, multiple)


def _enlarged(span: slice, scale: int) -> slice:
    return slice(span.start * scale, span.stop * scale)
