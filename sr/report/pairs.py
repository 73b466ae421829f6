"""Find the files of several folders that show the same image."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sr.core.errors import UserError
from sr.evaluate.validate.sets import by_beginning
from sr.images import list_images


class Entry(NamedTuple):
    """One image. outputs: a file for each folder. hr, lr: None where they are not given."""

    name: str
    outputs: list[Path]
    hr: Path | None
    lr: Path | None


Failed = list[tuple[str, str]]  # (image, reason why it is not on the page)


def pair(folders: Sequence[str], *, hr: str | None, lr: str | None) -> tuple[list[Entry], Failed]:
    """Match the images of all folders by their path in the folder, without suffix.

    Names in `hr` and `lr` may end in HR, LR or x4; names of outputs may have any ending appended. The names of `hr`
    count, else those of `lr`, else those of the first folder.

    Raises:
        UserError: a folder does not exist, has no images, or has two of one name.
    """
    given = [folder for folder in (hr, lr, *folders) if folder is not None]
    named = {folder: _named(folder) for folder in given}
    keys = dict.fromkeys(map(_key, named[given[0]]))
    if len(keys) < len(named[given[0]]):
        raise UserError(f"{given[0]}: two names differ only by HR, LR or x4; rename one")
    found = [by_beginning(keys, {path: name for name, path in named[folder].items()}) for folder in given]
    entries, failed = [], []
    for key in keys:
        wrong = [
            f"{folder} has {len(paths[key]) or 'no'} {'images' if paths[key] else 'image'} of this name"
            for folder, paths in zip(given, found, strict=True)
            if len(paths[key]) != 1
        ]
        if wrong:
            failed.append((key, "; ".join(wrong)))
            continue
        files = [paths[key][0] for paths in found]
        wanted = files.pop(0) if hr is not None else None
        entries.append(Entry(key, files[lr is not None :], wanted, files[0] if lr is not None else None))
    return entries, failed


def _named(folder: str) -> dict[str, Path]:
    """Path without suffix -> file. Where two share it, the suffix is appended, as `sr upscale` names outputs."""
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"{folder}: there is no such folder; give folders of images")
    paths = list_images(root)
    if not paths:
        raise UserError(f"{folder}: no images in it; give a folder with some")
    stems = [path.relative_to(root).with_suffix("").as_posix() for path in paths]
    counts = Counter(stems)
    return {
        stem if counts[stem] == 1 else f"{stem}_{path.suffix[1:]}": path
        for stem, path in zip(stems, paths, strict=True)
    }


def _key(name: str) -> str:
    return re.sub(r"(?<=[^/])[_-]?(HR|LR|x\d)$", "", name)
