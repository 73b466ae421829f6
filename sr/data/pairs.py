"""Which lq image belongs to which gt image."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from sr.core.errors import UserError
from sr.data.paths import Images
from sr.images.listing import printable

ENDING = re.compile(r"(?<=.)(?:[-_. ]?(?:x\d+|HR|LR|GT|LQ)|[-_. ](?:hr|lr|gt|lq))$")


class Pairs(NamedTuple):
    """lq: the partner of each gt image, in their order. alone: lq images without a gt image."""

    lq: list[Path]
    alone: list[Path]


def pair_up(gt: Images, lq: Images) -> Pairs:
    """Pair by file name without suffix; the usual endings (`x4`, `_LR`, `_HR`, `_gt` ...) may differ.

    Where file names repeat (`clip1/000.png`, `clip2/000.png`), partners have the same path below their folders.
    Raises UserError naming the first gt image without a partner, or two images that share one.
    """
    by_path = _repeats(gt) or _repeats(lq)
    matched: list[int] = []
    tables = [(_grouped(gt, named), _grouped(lq, named), named) for named in (_name(by_path), _plain(by_path))]
    for path, key in zip(gt.paths, gt.keys, strict=True):
        for of_gt, of_lq, named in tables:
            mine, theirs = of_gt[named(key)], of_lq.get(named(key), [])
            if theirs:
                break
        else:
            how = f" (names repeat, so its path has to end in {tables[0][2](key)})" if by_path else ""
            raise UserError(
                f"{printable(path)} has no partner among the {len(lq.paths)} images to pair it with{how}; add it or"
                " remove this"
            )
        for rows, side in ((mine, gt), (theirs, lq)):
            if len(rows) > 1:
                first, second = (printable(side.paths[row]) for row in rows[:2])
                raise UserError(f"{first} and {second} have the same name, so their partners are unknown; rename one")
        matched.append(theirs[0])
    taken = set(matched)
    alone = [path for row, path in enumerate(lq.paths) if row not in taken]
    return Pairs([lq.paths[row] for row in matched], alone)


def _repeats(images: Images) -> bool:
    return any(count > 1 for count in Counter(_base(key) for key in images.keys).values())


def _base(key: str) -> str:
    return key.rpartition("/")[2]


def _name(by_path: bool) -> Callable[[str], str]:
    return (lambda key: key) if by_path else _base


def _plain(by_path: bool) -> Callable[[str], str]:
    """The name without the usual endings."""

    def plain(key: str) -> str:
        folder, slash, base = key.rpartition("/")
        while (shorter := ENDING.sub("", base)) != base:
            base = shorter
        return f"{folder}{slash}{base}" if by_path else base

    return plain


def _grouped(images: Images, named: Callable[[str], str]) -> dict[str, Sequence[int]]:
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for row, key in enumerate(images.keys):
        rows[named(key)].append(row)
    return dict(rows)
