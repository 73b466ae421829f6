"""Standard benchmark folders: find the HR and LR files of Set5, Set14, BSD100 and the like as they are published."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sr.core.errors import UserError
from sr.images import list_images

_HR = "hr", "HR", "GTmod12", "GT", "gt", "original"
_LR = "lr", "LR", "LRbicx{scale}", "LR_bicubic/X{scale}", "LR_bicubic/x{scale}", "lr_x{scale}"
_TOGETHER = "image_SRF_{scale}"  # both in one folder, distinguished by the ends of their names (SelfExSR)


class Found(NamedTuple):
    """A set in a folder. lr: None where it is made from hr."""

    name: str
    hr: list[Path]
    lr: list[Path] | None


def usual_sets(folder: str, *, scale: int) -> list[Found]:
    """Return every set in a folder, or the folder itself if it is a set. Raises UserError where there is none.

    Layouts: Set5/{HR,LR_bicubic/X4} (EDSR's benchmark), Set5/{GTmod12,LRbicx4} (BasicSR), Set5/image_SRF_4 (SelfExSR),
    Set5/{hr,lr}, or images only, whose lr is made.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"{folder}: there is no such folder; give one whose folders are validation sets")
    itself = _set(root, scale)
    inside = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = [itself] if itself else [made for path in inside if (made := _set(path, scale))]
    if not found:
        raise UserError(f"{folder}: no sets for scale {scale} in it; name its folders {', '.join(_HR)} and lr, LR ...")
    return found


def _set(folder: Path, scale: int) -> Found | None:
    together = folder / _TOGETHER.format(scale=scale)
    if together.is_dir():
        paths = list_images(together)
        halves = [[path for path in paths if path.stem.endswith(end)] for end in ("_HR", "_LR")]
        return Found(folder.name, *halves) if halves[0] else None
    high = next((folder / name for name in _HR if (folder / name).is_dir()), None)
    if high is not None:
        names = (name.format(scale=scale) for name in _LR)
        low = next((folder / name for name in names if _has_images(folder / name)), None)
        return Found(folder.name, list_images(high), list_images(low) if low else None)
    if _has_images(folder):
        return Found(folder.name, [path for path in list_images(folder) if path.parent == folder], None)
    return None


def _has_images(folder: Path) -> bool:
    return any(path.parent == folder for path in list_images(folder))


def set_names(folders: Sequence[str]) -> list[str]:
    """Return names for folders of sets: Set5 for `data/Set5/HR/`; the whole path where names would repeat."""
    parts = [[part for part in Path(folder).parts if part not in _HR] or [folder] for folder in folders]
    short = [re.sub(r"[*?\[\]]", "", each[-1]) or folder for each, folder in zip(parts, folders, strict=True)]
    return [name if short.count(name) == 1 else folder for name, folder in zip(short, folders, strict=True)]
