"""Validation sets: pairs of files, or all samples of a source in order."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from sr.core.errors import UserError
from sr.data.derived import read_resized
from sr.data.pairs import pair_up
from sr.data.paths import images_of
from sr.data.source import Source, fit_gt, oriented
from sr.images import bicubic, read_pixels, size_of, with_channels
from sr.images.listing import printable
from sr.images.read import count_bands
from sr.images.ssim import WINDOW

T = TypeVar("T")
Channels = tuple[int, int]
Degrade = Callable[[Tensor, int], Tensor]  # gt [C, H, W] in 0..1 and its index in the set -> lq, deterministic


class Example(NamedTuple):
    """One decoded pair. lq: [c, h, w]; gt: [C, h*scale, w*scale], or None without ground truth; both in 0..1.

    colours `lab`: lq is L and gt is ab, encoded as in sr.images.color.
    """

    lq: Tensor
    gt: Tensor | None
    colours: str = "rgb"

    def to(self, device: torch.device) -> "Example":
        return self._replace(lq=self.lq.to(device), gt=None if self.gt is None else self.gt.to(device))


class Item(NamedTuple):
    """One image to validate on.

    name: for tables; its stem, or the whole path where stems repeat. place: its origin, for error messages. load: reads
    it, on the rank that measures it.
    """

    name: str
    place: str
    load: Callable[[], Example]


@dataclass(frozen=True)
class ValSet:
    """A named list of items."""

    name: str
    items: list[Item]


def border_of(scale: int) -> int:
    """Return the pixels of every side that are not measured: by convention `scale`, and 0 at scale 1."""
    return scale if scale > 1 else 0


# ---- files -----------------------------------------------------------------------------------------------------------


def val_set(
    name: str,
    *,
    hr: Sequence[Path],
    lr: Sequence[Path] | None = None,
    scale: int,
    degrade: Degrade | None = None,
    channels: Channels = (3, 3),
) -> ValSet:
    """Pair the files by name as in training (see `sr.data.pairs`) and check sizes.

    Only headers are read. lr None: lr is made from hr by `degrade`, or by MATLAB's bicubic where the scale is above 1.
    channels: of the input and of the ground truth, see `sr.images.read_pixels`. Raises UserError when an image has no
    partner, is too small, or has the wrong size, and at scale 1 without lr and degrade: hr would be compared with
    itself.
    """
    if not hr:
        raise UserError(f"validation set '{name}' has no images; give a folder with images in 'hr'")
    if scale == 1 and lr is None and degrade is None:
        raise UserError(f"validation set '{name}': at scale 1 'hr' alone is compared with itself; give 'lr' too")
    partners = dict.fromkeys(hr) if lr is None else _pairs(name, hr, lr)
    for high, low in partners.items():
        _check_sizes(high, low, scale)
    names = _unique_names([printable(path) for path in hr], [printable(path.stem) for path in hr])
    loads = [partial(_load_files, path, partners[path], scale, _of(degrade, n), channels) for n, path in enumerate(hr)]
    return ValSet(name, [Item(n, printable(path), load) for n, path, load in zip(names, hr, loads, strict=True)])


def _unique_names(full: Sequence[str], short: Sequence[str]) -> list[str]:
    """Return the short names, with full names where a short name repeats."""
    counts = Counter(short)
    return [stem if counts[stem] == 1 else whole for whole, stem in zip(full, short, strict=True)]


def _pairs(name: str, hr: Sequence[Path], lr: Sequence[Path]) -> dict[Path, Path]:
    try:
        found = pair_up(images_of(hr), images_of(lr))
    except UserError as error:
        raise UserError(f"validation set '{name}': {error}, or leave lr out to make it from hr") from None
    if found.alone:
        raise UserError(
            f"validation set '{name}': {printable(min(found.alone))} has no partner in hr ({len(found.alone)} in all); "
            "give hr and lr the same file names, or leave lr out to make it from hr"
        )
    return dict(zip(hr, found.lq, strict=True))


def _check_sizes(hr: Path, lr: Path | None, scale: int) -> None:
    height, width = size_of(hr)
    _check_room(str(hr), height, width, scale)
    if lr is None:
        return
    given, wanted = size_of(lr), (height // scale, width // scale)
    if given != wanted:
        raise UserError(
            f"{lr}: is {given[1]}x{given[0]}, but {hr.name} of {width}x{height} at scale {scale} needs "
            f"{wanted[1]}x{wanted[0]}; give the lr made for this scale, or leave lr out to make it from hr"
        )


def _check_room(place: str, height: int, width: int, scale: int) -> None:
    if min(height, width) // scale * scale < WINDOW + 2 * border_of(scale):
        raise UserError(f"{place}: {width}x{height} is too small to measure at scale {scale}; remove it from the set")


def _load_files(
    hr: Path, lr: Path | None, scale: int, degrade: Callable[[Tensor], Tensor] | None, channels: Channels
) -> Example:
    given, wanted = channels
    gt = read_pixels(hr, channels=wanted)
    if lr is not None:
        return _example(gt, read_pixels(lr, channels=given), scale)
    return _example(gt, None, scale, degrade, original=gt if given == wanted else read_pixels(hr, channels=given))


def _of(degrade: Degrade | None, number: int) -> Callable[[Tensor], Tensor] | None:
    return None if degrade is None else lambda gt: degrade(gt, number)


def _example(
    gt: np.ndarray,
    lq: np.ndarray | None,
    scale: int,
    degrade: Callable[[Tensor], Tensor] | None = None,
    colours: str = "rgb",
    original: np.ndarray | None = None,
) -> Example:
    """gt loses the rows and columns that scale does not divide; lq left out is made by `degrade`, else by MATLAB's
    bicubic, rounded to 8 bits. original: the image with the channels of lq that it is made from (gt)."""
    if lq is not None:
        return Example(_tensor(lq), _tensor(fit_gt(gt, lq, scale)), colours)
    height, width = (side // scale for side in gt.shape[:2])
    cut, large = (
        _tensor(image[: height * scale, : width * scale]) for image in (gt, gt if original is None else original)
    )
    if degrade is not None:
        return Example(degrade(large), cut, colours)
    return Example((bicubic.resize(large, size=(height, width)).clamp(0, 1) * 255).round() / 255, cut, colours)


def _tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image.astype(np.float32) / np.iinfo(image.dtype).max).permute(2, 0, 1)


def output_set(name: str, *, hr: Sequence[Path], outputs: Sequence[Path], scale: int) -> ValSet:
    """Build a set of images that were upscaled already; each output is the lq of its pair.

    An output belongs to the hr whose name its own starts with (`img_001_x4.png` and `img_001.png`). hr is cropped by
    the rows and columns that the output lacks, fewer than `scale`. Raises UserError for an hr without or with several
    outputs, and for sizes that do not match.
    """
    keys = {re.sub(r"(?<=.)[_-]?HR$", "", path.stem): path for path in hr}
    found = by_beginning(keys, {str(path): path.stem for path in outputs})
    items = []
    for key, path in keys.items():
        if len(found[key]) != 1:
            matches = " and ".join(found[key]) if found[key] else f"none of {len(outputs)} images"
            raise UserError(f"validation set '{name}': {path} matches {matches}; give it one output of its name")
        output = Path(found[key][0])
        (height, width), (high, wide) = size_of(output), size_of(path)
        if not (0 <= high - height < scale and 0 <= wide - width < scale):
            raise UserError(
                f"{output}: is {width}x{height}, but {path.name} is {wide}x{high}; give the output made from it"
            )
        _check_room(str(output), height, width, scale)
        items.append(Item(path.stem, str(output), partial(_load_output, path, output)))
    if len(items) < len(hr):
        raise UserError(f"validation set '{name}': two images share a name; rename one, or give folders one by one")
    return ValSet(name, items)


def by_beginning(keys: Collection[str], names: Mapping[T, str]) -> dict[str, list[T]]:
    """Group things by the longest key that is their name, or its start before `_`, `-`, `.`, a space or `x4`."""
    found: dict[str, list[T]] = {key: [] for key in keys}
    for thing, name in names.items():
        ends = (end for end in range(len(name), 0, -1) if end == len(name) or re.match(r"[-_. ]|x\d", name[end:]))
        key = next((name[:end] for end in ends if name[:end] in found), None)
        if key is not None:
            found[key].append(thing)
    return found


def _load_output(hr: Path, output: Path) -> Example:
    channels = count_bands(hr) or 3
    made, gt = (_tensor(read_pixels(path, channels=channels)) for path in (output, hr))
    return Example(made, gt[:, : made.shape[1], : made.shape[2]])


# ---- sources ---------------------------------------------------------------------------------------------------------


def source_set(
    name: str,
    source: Source,
    *,
    direction: str = "a_to_b",
    size: int | None = None,
    scale: int = 1,
    colours: str = "rgb",
    degrade: Degrade | None = None,
    compare: bool = True,
    input_channels: int | None = None,
) -> ValSet:
    """Build a set of all samples of a source, in order. Samples are read when they are measured.

    direction: which image of a translation pair is the input. size: resize both images to size x size first, bicubic,
    as the tests of pix2pix do. degrade: makes lq where the source has none. input_channels: of that lq (default: those
    of gt). compare=False: items without ground truth. Raises UserError for a source without pairs (a mix, unpaired
    sets).
    """
    if not hasattr(source, "counts"):
        raise UserError(f"validation set '{name}': its source has no pairs; give a source of pairs")
    places = [(shard, index) for shard, count in enumerate(source.counts) for index in range(count)]
    if not places:
        raise UserError(f"validation set '{name}' has no images; correct the path in its source")
    full = [source.name(*place) for place in places]
    names = _unique_names(full, [Path(whole.rpartition(": ")[2]).stem for whole in full])
    how: dict[str, Any] = {"direction": direction, "size": size, "scale": scale, "colours": colours}
    load = partial(_load_sample, source, compare=compare, input_channels=input_channels, **how)
    rows = enumerate(zip(names, full, places, strict=True))
    return ValSet(
        name, [Item(short, whole, partial(load, place, _of(degrade, n))) for n, (short, whole, place) in rows]
    )


def _load_sample(
    source: Source,
    place: tuple[int, int],
    degrade: Callable[[Tensor], Tensor] | None,
    *,
    direction: str,
    size: int | None,
    scale: int,
    colours: str,
    compare: bool,
    input_channels: int | None,
) -> Example:
    try:
        sample = source.read(*place) if size is None else read_resized(source, place, size, scale)
        gt, lq = oriented(sample, direction)
        if lq is None and scale == 1 and degrade is None:
            raise ValueError("has no partner")
        original = with_channels(gt, input_channels) if lq is None and input_channels else gt
        example = _example(gt, lq, scale, degrade, colours, original)
    except ValueError as error:
        raise UserError(f"{source.name(*place)}: {error}; remove it from the validation set") from None
    if not compare:
        return example._replace(gt=None)
    height, width = gt.shape[:2]
    _check_room(source.name(*place), height, width, scale)
    return example
