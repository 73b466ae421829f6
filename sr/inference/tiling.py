"""Run a network over large images in overlapping tiles, so that the device holds only one batch of tiles."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, islice, pairwise, product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sr.core.errors import UserError
from sr.inference.transfer import HostCopy, to_device

TILE, OVERLAP = 256, 32  # input pixels: defaults where the receptive field is not measured
FADE = 16  # input pixels: the longest cross-fade between neighbouring tiles
SMALLEST = 32  # input pixels: the shortest side of a tile that is chosen automatically


class Tiles(NamedTuple):
    """How an image is cut, in input pixels: the largest tile and the least overlap of neighbours.

    A height or width of 0 takes the whole side of the image.
    """

    height: int
    width: int
    overlap: int


WHOLE = Tiles(0, 0, 0)

# ---- choose tiles ----------------------------------------------------------------------------------------------------


def check_overlap(tile: int, overlap: int) -> None:
    """Raise UserError for an overlap below 0 or above half a tile. With tile 0 (no tiles), any overlap is valid."""
    if tile and not 0 <= 2 * overlap <= tile:
        raise UserError(f"overlap is {overlap} with tiles of {tile}; give 0 to {tile // 2}, or larger tiles")


def overlap_for(reach: int, multiple: int = 1) -> int:
    """The least overlap whose cross-fade keeps `reach` input pixels away from the borders of both tiles.

    The cross-fade takes the middle quarter of the overlap, FADE pixels at most.
    """
    return _up(min(math.ceil(reach * 8 / 3), 2 * reach + FADE), multiple)


def choose_tiles(height: int, width: int, *, overlap: int, multiple: int, limit: int) -> Tiles:
    """The tiles that compute the fewest pixels, of at most `limit` pixels each.

    Tiles are at least twice as long as the overlap. Where `limit` is too small for that, tiles are square and the
    overlap is half a tile at most.
    """
    if height * width <= limit:
        return WHOLE
    shortest, chosen = max(2 * overlap, SMALLEST), []
    for rows in range(1, max((height - overlap) // (shortest - overlap), 1) + 1):
        down = _up(-(-(height + (rows - 1) * overlap) // rows), multiple)
        tiles = Tiles(down, limit // down // multiple * multiple, overlap)
        if tiles.width >= min(width, shortest):
            chosen.append((computed_pixels(height, width, tiles, multiple), tiles))
    if chosen:
        return min(chosen)[1]
    side = max(math.isqrt(limit) // multiple * multiple, multiple)
    return Tiles(side, side, min(overlap, side // 2))


def computed_pixels(height: int, width: int, tiles: Tiles, multiple: int = 1) -> int:
    """Input pixels of all tiles of an image together."""
    pixels = 1
    for side, tile in ((height, tiles.height), (width, tiles.width)):
        length, starts = _cut(_up(side, multiple), tile, tiles.overlap, multiple)
        pixels *= length * len(starts)
    return pixels


# ---- run in tiles ----------------------------------------------------------------------------------------------------


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
    """Compute `net(lq)` in square tiles: float32 [1, c, h*scale, w*scale] on lq's device.

    Args:
        lq: [1, 3, h, w].
        tile, overlap: the largest side of a tile and the least overlap, in input pixels. tile 0: the whole image.
        multiple: tile sides and positions are multiples of this, so that a network that unshuffles pixels sees the
            same phase as in the whole image.
        together: input pixels of tiles that share a batch (0: one tile per batch).
        device: where net runs (default: lq's device). Only one batch is there at a time.
        on_tiles: called with (done, total) after every batch.

    Neighbours are cross-faded over the middle quarter of their overlap, FADE pixels at most. The result equals that of
    the whole image for a network whose receptive field fits the overlap (see `overlap_for`).
    """
    tiles = [Tiles(tile, tile, overlap)]
    how = {"scale": scale, "multiple": multiple, "together": together, "device": device, "on_tiles": on_tiles}
    check_overlap(tile, overlap)
    return tiled_together(net, [lq], tiles=tiles, **how)[0][0]  # type: ignore[arg-type]


@torch.no_grad()
def tiled_together(
    net: Callable[[Tensor], Tensor],
    lqs: Sequence[Tensor],
    *,
    scale: int,
    tiles: Sequence[Tiles],
    multiple: int = 1,
    together: int = 0,
    device: torch.device | str | None = None,
    on_tiles: Callable[[int, int], None] | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """`tiled` for several images at once, each with its own tiles. Tiles of equal size share a batch.

    Returns the images, and for each the largest difference of two tiles where they are cross-faded, with outputs
    clipped to 0..1 (0.0 without tiles): a lower bound on what tiles changed. The host waits for the device only where
    `net` returns results on another device than the images'; then the next batch is computed meanwhile.
    """
    sizes = [lq.shape[-2:] for lq in lqs]
    padded = [_padded(lq, multiple) for lq in lqs]
    places = [
        place
        for n, (lq, cut) in enumerate(zip(padded, tiles, strict=True))
        for place in _places(n, lq, cut, multiple, scale)
    ]
    places.sort(key=lambda place: place.shape)  # stable: the tiles of an image stay in order
    outputs: dict[int, Tensor] = {}
    seams: list[Tensor] = [torch.zeros((), device=lq.device) for lq in lqs]
    done = 0
    for chosen, results in _ahead(_results(net, padded, places, together, device)):
        for at, result in zip(chosen, results.wait() if isinstance(results, HostCopy) else results, strict=True):
            height, width = (side * scale for side in padded[at.image].shape[-2:])
            if result.shape[-2:] == (height, width):
                outputs[at.image] = result[None]
                continue
            if at.image not in outputs:
                outputs[at.image] = result.new_zeros(1, result.shape[0], height, width)
            seams[at.image] = torch.maximum(seams[at.image], _add(outputs[at.image][0], at, result))
        done += len(chosen)
        if on_tiles is not None:
            on_tiles(done, len(places))
    return [outputs[n][..., : height * scale, : width * scale] for n, (height, width) in enumerate(sizes)], seams


_Batch = tuple[list["_Place"], Tensor | HostCopy]


def _results(
    net: Callable[[Tensor], Tensor],
    padded: Sequence[Tensor],
    places: Sequence["_Place"],
    together: int,
    device: torch.device | str | None,
) -> Iterator[_Batch]:
    """Yield batches of tiles of one size with their outputs, float32, on the images' device or on the way there."""
    for (rows, columns), alike in groupby(places, key=lambda place: place.shape):
        while chosen := list(islice(alike, max(together // (rows * columns), 1))):
            batch = torch.cat([padded[at.image][..., at.row.inputs, at.column.inputs] for at in chosen])
            made = net(batch.to(device or batch.device)).float()
            yield chosen, made if made.device == batch.device else HostCopy(made)


def _ahead(batches: Iterator[_Batch]) -> Iterator[_Batch]:
    """Yield the same; a batch on its way to the host is yielded when the next one has been started."""
    waiting: list[_Batch] = []
    for batch in batches:
        waiting.append(batch)
        while len(waiting) > isinstance(batch[1], HostCopy):
            yield waiting.pop(0)
        del batch  # the caller frees its results before the next ones are computed
    yield from waiting


class _Span(NamedTuple):
    """One axis of a tile: its input and output pixels, its weight in each output pixel, and the weight of all tiles
    before it on this axis. `shared`: output pixels at its start that have weight from tiles before it."""

    inputs: slice
    outputs: slice
    weight: Tensor
    before: Tensor
    shared: int


class _Place(NamedTuple):
    """A tile: the number of its image and its axes."""

    image: int
    row: _Span
    column: _Span

    @property
    def shape(self) -> tuple[int, int]:
        return self.row.inputs.stop - self.row.inputs.start, self.column.inputs.stop - self.column.inputs.start


def _places(number: int, lq: Tensor, tiles: Tiles, multiple: int, scale: int) -> list[_Place]:
    height, width = lq.shape[-2:]
    rows = _axis(height, tiles.height, tiles.overlap, multiple, scale, lq.device)
    columns = _axis(width, tiles.width, tiles.overlap, multiple, scale, lq.device)
    return [_Place(number, row, column) for row, column in product(rows, columns)]


def _add(output: Tensor, at: _Place, result: Tensor) -> Tensor:
    """Add a tile's weighted result to the output; tiles come row by row. Returns its largest difference, clipped to
    0..1, from what earlier tiles made of the same pixels, where both have weight. No sync."""
    target = output[:, at.row.outputs, at.column.outputs]
    weight = at.row.weight[:, None] * at.column.weight
    seam = torch.zeros((), device=output.device)
    for rows, columns in ((slice(at.row.shared), slice(None)), (slice(None), slice(at.column.shared))):
        earlier = at.row.before[rows, None] + at.row.weight[rows, None] * at.column.before[columns]
        if earlier.numel():
            both = (earlier > 0.05) & (weight[rows, columns] > 0)
            known = target[:, rows, columns] / earlier.clamp_min(0.05)
            change = (known.clamp(0, 1) - result[:, rows, columns].clamp(0, 1)).abs().amax(0)
            seam = torch.maximum(seam, torch.where(both, change, 0.0).nan_to_num(0.0).max())
    target += result * weight
    return seam


def _padded(lq: Tensor, multiple: int) -> Tensor:
    """Padded to the right and at the bottom to a multiple, by reflection where the image is large enough."""
    bottom, right = ((-side) % multiple for side in lq.shape[-2:])
    mirrors = bottom < lq.shape[-2] and right < lq.shape[-1]
    return F.pad(lq, (0, right, 0, bottom), mode="reflect" if mirrors else "replicate") if bottom or right else lq


def _cut(side: int, tile: int, overlap: int, multiple: int) -> tuple[int, list[int]]:
    """The length of the tiles along an axis, and where each starts: as few and as short as possible, evenly spread.

    side: a multiple of `multiple`.
    """
    length = min(_up(tile, multiple) or side, side)
    gaps = -(-(side - length) // _step(length, overlap, multiple))
    if gaps:
        shorter = _up(-(-(side + gaps * overlap) // (gaps + 1)), multiple)
        while gaps * _step(shorter, overlap, multiple) + shorter < side:
            shorter += multiple
        length = min(length, shorter)
    last = side - length
    return length, [last * n // gaps // multiple * multiple for n in range(gaps)] + [last]


def _axis(
    side: int, tile: int, overlap: int, multiple: int, scale: int, device: torch.device | str = "cpu"
) -> list[_Span]:
    """Tiles along an axis. The weights at each output pixel add up to 1; outer edges are not faded."""
    length, starts = _cut(side, tile, overlap, multiple)
    pixels = (torch.arange(side * scale) + 0.5) / scale
    rises = [torch.ones_like(pixels)]  # how far each tile has replaced the one before it
    for before, start in pairwise(starts):
        common = before + length - start
        rises.append(((pixels - start - common / 2) / min(common / 4, FADE) + 0.5).clamp(0, 1))
    rises.append(torch.zeros_like(pixels))
    spans = []
    for start, (rise, fall) in zip(starts, pairwise(rises), strict=True):
        inputs = slice(start, start + length)
        outputs = slice(start * scale, (start + length) * scale)
        earlier = 1 - rise[outputs]
        weight, shared = (rise - fall)[outputs], int((earlier > 0).sum())
        weight, earlier = (to_device(values, torch.device(device)) for values in (weight, earlier))
        spans.append(_Span(inputs, outputs, weight, earlier, shared))
    return spans


def _step(length: int, overlap: int, multiple: int) -> int:
    """From the start of one tile to that of the next."""
    return max((length - overlap) // multiple * multiple, multiple)


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
