"""From a position in the run to the crop that is trained on: pure, so any worker of any rank may do it."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sr.data.mix import Mix, Route, parts_of
from sr.data.source import Sample, Source, fit_gt
from sr.errors import UserError
from sr.images import ImageError

CROP_STREAM = 7  # the second word of the random key, see sr.data.order.ORDER_STREAM
TRIES = 16


class Crop(NamedTuple):
    """gt: uint8 [3, H, W]. lq: uint8 [3, H/scale, W/scale] or None. bad: the samples passed over before this one."""

    gt: Tensor
    lq: Tensor | None
    bad: list[str]


class Crops(Dataset):
    """Indexed by lists of global positions, one list a micro-batch.

    Pairs are cropped to `gt_size`, images without lq to `crop_size` (the degradation needs a margin). Position p
    always gives the same crop: the sample comes from the order, and the draws from `default_rng([seed, 7, p])`.
    """

    def __init__(
        self, source: Source | Mix, *, seed: int, scale: int, gt_size: int, crop_size: int, flip: bool, rotate: bool
    ) -> None:
        self._parts = parts_of(source)
        for part, _ in self._parts:
            if sum(part.counts) == 0:
                raise UserError("a data source holds no images; correct its path")
        self._route = Route(self._parts, seed=seed)
        self._seed, self._scale = seed, scale
        self._gt_size, self._crop_size = gt_size, crop_size
        self._flip, self._rotate = flip, rotate

    def __getitem__(self, positions: list[int]) -> dict[str, Any] | str:
        """A micro-batch in plain types (see `sr.data.stream`), or the sentence that says why there is none.

        (An exception would come out of a worker process as another one with a traceback in its message.)
        """
        try:
            crops = [self.crop(position) for position in positions]
        except UserError as error:
            return str(error)
        groups = []
        for rows in _alike(crops):
            gt = torch.stack([crops[row].gt for row in rows])
            lq = [small for row in rows if (small := crops[row].lq) is not None]
            groups.append((rows, [positions[row] for row in rows], gt, torch.stack(lq) if lq else None))
        return {"groups": groups, "bad": [line for crop in crops for line in crop.bad]}

    def crop(self, position: int) -> Crop:
        """Raises UserError when neither the sample nor any of its next neighbours can be read."""
        part, shard, index = self._route(position)
        source = self._parts[part][0]
        failed: list[tuple[str, str]] = []
        for place in _neighbours(source, shard, index):
            draw = np.random.default_rng([self._seed, CROP_STREAM, position])
            try:
                gt, lq = self._cut(source.read(*place), draw)
            except (ImageError, ValueError) as error:
                failed.append((source.name(*place), error.reason if isinstance(error, ImageError) else str(error)))
            else:
                stand_in = source.name(*place) if failed else ""
                return Crop(gt, lq, [f"{name}: {reason} (replaced by {stand_in})" for name, reason in failed])
        (first, reason), (last, _) = failed[0], failed[-1]
        raise UserError(f"none of {len(failed)} samples from {first} ({reason}) to {last} can be used; mend the data")

    def _cut(self, sample: Sample, draw: np.random.Generator) -> tuple[Tensor, Tensor | None]:
        """The random crop, flips and turns of one sample. Every draw is made, so that no option shifts another's."""
        where, turns = draw.random(2), draw.random(3) < 0.5
        gt, lq = sample
        if lq is None:
            return self._turn(_window(gt, self._crop_size, where), turns), None
        size = self._gt_size // self._scale
        # Mirrored with the edge repeated, a pair stays aligned: whole lq pixels stand over whole blocks of gt.
        gt = _pad(fit_gt(gt, lq, self._scale), self._gt_size, "symmetric")
        lq = _pad(lq, size, "symmetric")
        top, left = _corner(lq, size, where)
        lq = lq[top : top + size, left : left + size]
        top, left = top * self._scale, left * self._scale
        gt = gt[top : top + self._gt_size, left : left + self._gt_size]
        return self._turn(gt, turns), self._turn(lq, turns)

    def _turn(self, image: np.ndarray, turns: np.ndarray) -> Tensor:
        if self._flip and turns[0]:
            image = image[:, ::-1]
        if self._rotate and turns[1]:
            image = image[::-1]
        if self._rotate and turns[2]:
            image = image.swapaxes(0, 1)
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _window(image: np.ndarray, size: int, where: np.ndarray) -> np.ndarray:
    image = _pad(image, size, "reflect")
    top, left = _corner(image, size, where)
    return image[top : top + size, left : left + size]


def _corner(image: np.ndarray, size: int, where: np.ndarray) -> tuple[int, int]:
    return int(where[0] * (image.shape[0] - size + 1)), int(where[1] * (image.shape[1] - size + 1))


def _pad(image: np.ndarray, size: int, mode: Any) -> np.ndarray:
    """At least size x size, mirrored at the bottom and the right."""
    down, right = max(0, size - image.shape[0]), max(0, size - image.shape[1])
    return np.pad(image, ((0, down), (0, right), (0, 0)), mode) if down or right else image


def _neighbours(source: Source, shard: int, index: int) -> Iterator[tuple[int, int]]:
    """The sample and those after it, on into the next shards; each once, and not for ever."""
    first, counts = (shard, index), source.counts
    for _ in range(TRIES):
        yield shard, index
        index += 1
        while index >= counts[shard]:
            shard, index = (shard + 1) % len(counts), 0
        if (shard, index) == first:
            return


def _alike(crops: list[Crop]) -> list[list[int]]:
    """Rows that can be stacked: those without lq, and those with."""
    rows: dict[bool, list[int]] = {}
    for row, crop in enumerate(crops):
        rows.setdefault(crop.lq is None, []).append(row)
    return list(rows.values())
