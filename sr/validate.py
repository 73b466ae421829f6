"""Validation: pictures through the network, compared with what they should be, shared over the ranks."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from tqdm import tqdm

from sr import bicubic
from sr.dist import gather, is_main, rank, world
from sr.errors import UserError
from sr.images import read_rgb, size_of
from sr.metrics import METRICS
from sr.metrics.ssim import WINDOW

STRIP_SIDE = 640  # ground truth pixels that a strip shows at most: strips travel between ranks and into TensorBoard
_CAPTIONS = "bicubic", "ours", "ground truth"


class Item(NamedTuple):
    """One picture to validate on; without `lr` that is made from `hr`. name: its stem, or path where stems repeat."""

    name: str
    hr: Path
    lr: Path | None


@dataclass(frozen=True)
class ValSet:
    name: str
    items: list[Item]


@dataclass(frozen=True)
class Row:
    """The scores of one picture, by name of the metric."""

    set: str
    name: str
    scores: dict[str, float]


@dataclass(frozen=True)
class Results:
    """rows: in the order of the sets. pictures: "set/name" -> strip, uint8 [h, w, 3]."""

    rows: list[Row]
    pictures: dict[str, np.ndarray]

    @property
    def means(self) -> dict[str, dict[str, float]]:
        """{set: {metric: mean over its pictures}}."""
        sets: dict[str, list[dict[str, float]]] = {}
        for row in self.rows:
            sets.setdefault(row.set, []).append(row.scores)
        return {
            name: {metric: fmean(scores[metric] for scores in pictures) for metric in pictures[0]}
            for name, pictures in sets.items()
        }


# ---- sets ------------------------------------------------------------------------------------------------------------


def val_set(name: str, *, hr: Sequence[Path], lr: Sequence[Path] | None = None, scale: int) -> ValSet:
    """Pair the files by stem (`img_001.png` with `img_001.png`, `img_001x4.png` or `img_001_LR.png`) and check sizes.

    Only headers are read. Raises UserError when a picture has no partner, is too small, or has the wrong size.
    """
    if not hr:
        raise UserError(f"validation set '{name}' has no pictures; give a folder with images in 'hr'")
    stems = Counter(path.stem for path in hr)
    partners = dict.fromkeys(hr) if lr is None else _pairs(name, hr, lr, scale)
    items = [Item(p.stem if stems[p.stem] == 1 else p.as_posix(), p, partners[p]) for p in hr]
    for item in items:
        _check_size(item, scale)
    return ValSet(name, items)


def _pairs(name: str, hr: Sequence[Path], lr: Sequence[Path], scale: int) -> dict[Path, Path]:
    high, low = _by_stem(name, hr, scale), _by_stem(name, lr, scale)
    alone = [*(high[key] for key in high.keys() - low), *(low[key] for key in low.keys() - high)]
    if alone:
        raise UserError(
            f"validation set '{name}': {min(alone)} has no partner of the same name ({len(alone)} in all); "
            "give hr and lr the same file names, or leave lr out to make it from hr"
        )
    return {path: low[key] for key, path in high.items()}


def _by_stem(name: str, paths: Sequence[Path], scale: int) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        key = re.sub(rf"(?<=.)[_-]?(x{scale}|HR|LR)$", "", path.stem)
        if key in found:
            raise UserError(f"validation set '{name}': {found[key]} and {path} share a name; rename one to pair them")
        found[key] = path
    return found


def _check_size(item: Item, scale: int) -> None:
    height, width = size_of(item.hr)
    wanted = height // scale, width // scale
    if min(wanted) * scale < WINDOW + 2 * scale:
        raise UserError(f"{item.hr}: {width}x{height} is too small to measure at scale {scale}; remove it from the set")
    if item.lr is None:
        return
    given = size_of(item.lr)
    if given != wanted:
        raise UserError(
            f"{item.lr}: is {given[1]}x{given[0]}, but {item.hr.name} of {width}x{height} at scale {scale} needs "
            f"{wanted[1]}x{wanted[0]}; give the lr made for this scale, or leave lr out to make it from hr"
        )


def _read(item: Item, scale: int) -> tuple[Tensor, Tensor]:
    """(lq [3, h, w], gt [3, h*scale, w*scale]) in 0..1; gt loses the rows and columns that scale does not divide."""
    gt = _tensor(item.hr)
    height, width = (side // scale * scale for side in gt.shape[-2:])
    gt = gt[:, :height, :width]
    if item.lr is not None:
        return _tensor(item.lr), gt
    lq = bicubic.resize(gt, size=(height // scale, width // scale))
    return (lq.clamp(0, 1) * 255).round() / 255, gt


def _tensor(path: Path) -> Tensor:
    return torch.from_numpy(read_rgb(path).astype(np.float32) / 255).permute(2, 0, 1)


# ---- measuring -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(
    run: Callable[[Tensor], Tensor],
    sets: Sequence[ValSet],
    *,
    scale: int,
    metrics: Sequence[str] = ("psnr_y", "ssim_y"),
    pictures: int = 0,
) -> Results:
    """Measure `run` on every picture of the sets, a border of `scale` pixels left out. Collective: the ranks share the
    pictures, and every rank returns the same table.

    run: float [1, 3, h, w] on the host -> [1, 3, h*scale, w*scale] on any device; it must not wait for other ranks.
    pictures: strips of the first so many pictures of each set.
    When one rank fails all raise, so that none is left waiting.
    """
    jobs = [(val.name, item, number < pictures) for val in sets for number, item in enumerate(val.items)]
    mine = range(rank(), len(jobs), world())
    found: dict[int, _Measured] = {}
    failure: Exception | None = None
    try:
        for job in tqdm(mine, desc="validate", leave=False, disable=None if is_main() else True):
            found[job] = _measure(run, jobs[job], scale, metrics)
    except Exception as error:  # the other ranks must hear of it before it is raised
        failure = error
    everyone = gather((found, None if failure is None else f"{type(failure).__name__}: {failure}"))
    if failure is not None:
        raise failure
    for number, (_, told) in enumerate(everyone):
        if told is not None:
            raise UserError(f"validation failed on rank {number} ({told}); see the log of that rank")
    merged = {job: measured for part, _ in everyone for job, measured in part.items()}
    ordered = [merged[job] for job in range(len(jobs))]
    strips = {f"{row.set}/{row.name}": image for row, image in ordered if image is not None}
    return Results([row for row, _ in ordered], strips)


class _Measured(NamedTuple):
    row: Row
    strip: np.ndarray | None


def _measure(
    run: Callable[[Tensor], Tensor], job: tuple[str, Item, bool], scale: int, metrics: Sequence[str]
) -> _Measured:
    name, item, draw = job
    lq, gt = _read(item, scale)
    output = run(lq[None])[0]
    if output.shape != gt.shape:
        made, wanted = (f"{x.shape[-1]}x{x.shape[-2]}" for x in (output, gt))
        raise UserError(f"{item.hr}: the model made {made} where {wanted} is right; set scale to the model's own")
    gt = gt.to(output.device)
    scores = {metric: METRICS[metric](output, gt, border=scale) for metric in metrics}
    return _Measured(Row(name, item.name, scores), strip(lq, output.cpu(), gt.cpu()) if draw else None)


def strip(lq: Tensor, output: Tensor, gt: Tensor) -> np.ndarray:
    """Bicubic enlargement, output and ground truth side by side with captions: uint8 [h, w, 3].

    lq: [3, h, w]; output, gt: [3, h*scale, w*scale], all in 0..1. Large pictures show their centre only.
    """
    scale = gt.shape[-1] // lq.shape[-1]
    top, left = (max(0, side - STRIP_SIDE // scale) // 2 for side in lq.shape[-2:])
    enlarged = bicubic.resize(lq, size=(gt.shape[-2], gt.shape[-1]))
    columns = []
    for image in (enlarged, output, gt):
        window = image[:, top * scale :, left * scale :][:, :STRIP_SIDE, :STRIP_SIDE]
        columns.append((window.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())
    head, gap = 16, 4
    height, width = columns[0].shape[:2]
    sheet = Image.new("RGB", (3 * width + 2 * gap, height + head), "white")
    for number, (column, caption) in enumerate(zip(columns, _CAPTIONS, strict=True)):
        left = number * (width + gap)
        sheet.paste(Image.fromarray(column), (left, head))
        ImageDraw.Draw(sheet).text((left + 2, 2), caption, fill="black")
    return np.asarray(sheet)
