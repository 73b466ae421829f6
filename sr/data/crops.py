"""Map a position in the run to a training crop, as a pure function that any worker of any rank can compute."""

import math
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sr.core.errors import UserError
from sr.data.counts import Counts
from sr.data.derived import Derived
from sr.data.mix import Route, Sources, sides_of
from sr.data.source import Sample, Source, fit_gt, oriented, resized
from sr.images import ImageError

CROP_STREAM, OTHER_STREAM = 7, 8  # the second word of the random key, see sr.data.sampling_order.ORDER_STREAM
TRIES = 16
Images = tuple[np.ndarray, np.ndarray | None]
Pixels = tuple[np.ndarray, np.ndarray | None, bool]
"""gt, lq, and whether lq was synthesized from gt."""


class Degrades(Protocol):
    """What of `sr.degrade.Degradation` is used here."""

    lq_bits: int | None

    def pairs(self, gt: Tensor, positions: Sequence[int], *, bits: int) -> tuple[Tensor, Tensor]: ...


class Crop(NamedTuple):
    """A training crop.

    gt: uint8 or uint16 [C, H, W]. lq: [C', H/scale, W/scale], or None. bad: unreadable samples that this one replaces.
    """

    gt: Tensor
    lq: Tensor | None
    bad: list[str]


class Crops(Dataset):
    """A dataset indexed by lists of global positions, one list for each micro-batch.

    Pairs are cropped to `gt_size`, images without lq to `degrade_size` (the degradation needs a margin). Position p
    always gives the same crop: the sample comes from the order, and the draws from `default_rng([seed, 7, p])`.
    Translation: `direction` selects the input of a pair (see `oriented`), and images are resized to `load_size` x
    `load_size` before cropping. Unpaired sets give two samples for each position, cropped by independent draws.
    degradation: synthesizes lq here instead of on the device.
    """

    def __init__(
        self,
        source: Sources,
        *,
        seed: int,
        scale: int,
        gt_size: int,
        degrade_size: int,
        flip: bool,
        rotate: bool,
        direction: str = "a_to_b",
        load_size: int | None = None,
        degradation: Degrades | None = None,
    ) -> None:
        sides = sides_of(source)
        self._unpaired = len(sides) > 1
        if scale > 1 and (self._unpaired or load_size or direction != "a_to_b" or _derives(sides)):
            raise UserError(f"translation keeps the image size, but scale is {scale}; set scale: 1")
        self._side = _Side(sides[0], seed=seed, first=0, stream=CROP_STREAM)
        self._other = _Side(sides[1], seed=seed, first=len(sides[0]), stream=OTHER_STREAM) if self._unpaired else None
        self._scale, self._gt_size, self._load_size = scale, gt_size, load_size
        self._lone_size = gt_size if self._unpaired else degrade_size
        self._direction, self._flip, self._rotate, self._degradation = direction, flip, rotate, degradation

    def __getitem__(self, positions: list[int]) -> dict[str, Any] | UserError:
        """Return a micro-batch in plain types (see `sr.data.loader`), or an error.

        If it were raised, torch would replace it with another exception with a traceback in its message.
        """
        try:
            crops = [self._views(position) for position in positions]
        except UserError as error:
            return copy(error)  # without its frames
        memory = _memory([image for (gt, lq, _), _ in crops for image in (gt, lq)])
        groups = []
        for rows in _alike([pixels for pixels, _ in crops]):
            gt, memory = _stacked([crops[row][0][0] for row in rows], memory)
            small = [image for row in rows if (image := crops[row][0][1]) is not None]
            lq, memory = _stacked(small, memory) if small else (None, memory)
            groups.append((rows, [positions[row] for row in rows], gt, lq, crops[rows[0]][0][2]))
        return {"groups": groups, "bad": [line for _, bad in crops for line in bad]}

    def crop(self, position: int) -> Crop:
        """Return the crop at a position. Raises UserError if neither the sample nor the next ones can be read."""
        (gt, lq, _), bad = self._views(position)
        large, rest = _stacked([gt], _memory([gt, lq]))
        return Crop(large[0], None if lq is None else _stacked([lq], rest)[0][0], bad)

    def _views(self, position: int) -> tuple[Pixels, list[str]]:
        """Return a crop as views of the decoded image; `_stacked` makes the only copy."""
        (gt, lq), bad = self._side(position, self._cut)
        if self._other is not None:
            (plain, lq), more = self._other(position, self._cut)
            return (gt, plain if lq is None else lq, False), bad + more
        if lq is None and self._degradation:
            return (*_degraded(self._degradation, gt, position), True), bad
        return (gt, lq, False), bad

    def _cut(self, source: Source, place: tuple[int, int], draw: np.random.Generator) -> Images:
        """Crop, flip and rotate one sample. Every draw is made, so that no option changes the draws of another."""
        where, turns = draw.random(2), draw.random(3) < 0.5
        turn = partial(self._turn, turns=turns)
        if isinstance(source, Derived):
            photo = _window(self._loaded(source.photo(*place)), self._gt_size, where)
            gt, lq = self._oriented(source.split(photo))
            return turn(gt), None if lq is None else turn(lq)
        gt, lq = self._oriented(source.read(*place))
        if lq is None:
            return turn(_window(self._loaded(gt), self._lone_size, where)), None
        size = self._gt_size // self._scale
        # Symmetric padding keeps a pair aligned: each lq pixel covers a whole block of gt.
        gt = _pad(self._loaded(fit_gt(gt, lq, self._scale)), self._gt_size, "symmetric")
        lq = _pad(self._loaded(lq), size, "symmetric")
        top, left = _corner(lq, size, where)
        lq = lq[top : top + size, left : left + size]
        top, left = top * self._scale, left * self._scale
        gt = gt[top : top + self._gt_size, left : left + self._gt_size]
        return turn(gt), turn(lq)

    def _oriented(self, sample: Sample) -> Sample:
        return sample if self._unpaired else oriented(sample, self._direction)

    def _loaded(self, image: np.ndarray) -> np.ndarray:
        return resized(image, self._load_size) if self._load_size else image

    def _turn(self, image: np.ndarray, turns: np.ndarray) -> np.ndarray:
        if self._flip and turns[0]:
            image = image[:, ::-1]
        if self._rotate and turns[1]:
            image = image[::-1]
        if self._rotate and turns[2]:
            image = image.swapaxes(0, 1)
        return image.transpose(2, 0, 1)


class _Side:
    """The samples of some sources in sampling order; unreadable samples are replaced by the next one."""

    def __init__(self, parts: Sequence[tuple[Source, float]], *, seed: int, first: int, stream: int) -> None:
        for part, _ in parts:
            if not isinstance(part.counts, Counts) and sum(part.counts) == 0:
                raise UserError("a data source holds no images; correct its path")
        self._sources, self._route = [part for part, _ in parts], Route(parts, seed=seed, first=first)
        self._key = seed, stream

    def __call__(
        self, position: int, cut: Callable[[Source, tuple[int, int], np.random.Generator], Images]
    ) -> tuple[Images, list[str]]:
        """Return the result of `cut` and one line for each sample that was replaced.

        Raises UserError if none of the next TRIES samples can be read.
        """
        part, shard, index = self._route(position)
        source = self._sources[part]
        failed: list[tuple[str, str]] = []
        for place in _neighbours(source, shard, index):
            try:
                images = cut(source, place, np.random.default_rng([*self._key, position]))
            except (ImageError, ValueError) as error:
                failed.append((source.name(*place), error.reason if isinstance(error, ImageError) else str(error)))
            else:
                stand_in = source.name(*place) if failed else ""
                return images, [f"{name}: {reason} (replaced by {stand_in})" for name, reason in failed]
        (first, reason), (last, _) = failed[0], failed[-1]
        raise UserError(
            f"none of {len(failed)} samples from {first} ({reason}) to {last} can be read; replace or remove them"
        )


def _derives(sides: Sequence[Sequence[tuple[Source, float]]]) -> bool:
    return any(isinstance(part, Derived) for side in sides for part, _ in side)


def _window(image: np.ndarray, size: int, where: np.ndarray) -> np.ndarray:
    image = _pad(image, size, "reflect")
    top, left = _corner(image, size, where)
    return image[top : top + size, left : left + size]


def _corner(image: np.ndarray, size: int, where: np.ndarray) -> tuple[int, int]:
    return int(where[0] * (image.shape[0] - size + 1)), int(where[1] * (image.shape[1] - size + 1))


def _pad(image: np.ndarray, size: int, mode: Any) -> np.ndarray:
    """Pad to at least size x size by mirroring at the bottom and the right."""
    down, right = max(0, size - image.shape[0]), max(0, size - image.shape[1])
    return np.pad(image, ((0, down), (0, right), (0, 0)), mode) if down or right else image


def _neighbours(source: Source, shard: int, index: int) -> Iterator[tuple[int, int]]:
    """Yield the sample and the ones after it, across shards: at most TRIES, each once."""
    first, counts = (shard, index), source.counts
    for _ in range(TRIES):
        yield shard, index
        index += 1
        while index >= counts[shard]:
            shard, index = (shard + 1) % len(counts), 0
        if (shard, index) == first:
            return


def _degraded(degradation: Degrades, gt: np.ndarray, position: int) -> tuple[np.ndarray, np.ndarray]:
    """gt [C, H, W] and its lq, both in whole levels."""
    bits = 8 * gt.itemsize
    lq, gt_ = degradation.pairs(torch.from_numpy(gt.astype(np.float32))[None] / (2**bits - 1), [position], bits=bits)
    return _levels(gt_, bits), _levels(lq, degradation.lq_bits or bits)


def _levels(images: Tensor, bits: int) -> np.ndarray:
    return (images[0] * (2**bits - 1)).round().numpy().astype(np.uint8 if bits == 8 else np.uint16)


def _alike(crops: list[Pixels]) -> list[list[int]]:
    """Group the rows that can be stacked: of equal depth, with and without lq."""
    rows: dict[tuple[object, ...], list[int]] = {}
    for row, (gt, lq, degraded) in enumerate(crops):
        rows.setdefault((gt.dtype, None if lq is None else lq.dtype, degraded), []).append(row)
    return list(rows.values())


def _memory(images: list[np.ndarray | None]) -> Tensor:
    """Bytes for all images: one storage, so a worker moves one block to shared memory."""
    return torch.empty(sum(image.nbytes + image.nbytes % 2 for image in images if image is not None), dtype=torch.uint8)


def _stacked(images: list[np.ndarray], memory: Tensor) -> tuple[Tensor, Tensor]:
    """Stack images to [n, C, H, W] at the start of `memory`; return the stack and the rest of the memory.

    The stack keeps the depth and the layout of the first image, interleaved or planar. Other layouts are made on the
    device.
    """
    dtype = torch.uint8 if images[0].dtype == np.uint8 else torch.int16  # torch cannot flip uint16
    images = [image if dtype == torch.uint8 else image.view(np.int16) for image in images]
    item, (channels, height, width) = images[0].itemsize, images[0].shape
    interleaved = channels > 1 and abs(images[0].strides[0]) == item
    shape = (len(images), height, width, channels) if interleaved else (len(images), channels, height, width)
    size = math.prod(shape) * item
    stack, rest = memory[:size].view(dtype).view(shape), memory[size + size % 2 :]
    stack = stack.permute(0, 3, 1, 2) if interleaved else stack
    for place, image in zip(stack, images, strict=True):
        mirrored = image.strides[2] < 0  # a reversed copy by NumPy takes ten times as long
        given = image[..., ::-1] if mirrored else image
        if given.strides[2] == channels * item or not interleaved:
            place.numpy()[...] = given
        else:  # transposed: NumPy copies pixel by pixel
            for one, plane in zip(place.numpy(), given, strict=True):
                one[...] = plane
        if mirrored:
            place.copy_(place.flip(2))
    return stack if dtype == torch.uint8 else stack.view(torch.uint16), rest
