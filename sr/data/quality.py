"""Images that are not worth training on: too small, too large, blocky, blurred, or nearly equal to another one."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from PIL import Image

from sr.core.errors import UserError

BLOCK = 8  # pixels: the grid of JPEG
HASH_BITS = 64
LEAST_STEP = 0.1  # gray levels; keeps the ratio of a flat image near 1


class Limits(NamedTuple):
    """Which images `sr shard` drops; 0 or None: no limit.

    min_side, max_side: of the shorter and of the longer side, in pixels. blockiness: see `blockiness_of`. blur: the
    smallest `sharpness_of`. dedupe: bits in which the perceptual hashes of near-duplicates may differ.
    """

    min_side: int = 0
    max_side: int = 0
    blockiness: float = 0.0
    blur: float = 0.0
    dedupe: int | None = None

    @property
    def need_pixels(self) -> bool:
        return bool(self.blockiness or self.blur or self.dedupe is not None)

    def by_size(self, height: int, width: int) -> str:
        """Why an image is dropped, as a reason for `Skipped`; "" if it is kept."""
        if min(height, width) < self.min_side:
            return f"with a side below {self.min_side}"
        return f"with a side above {self.max_side}" if 0 < self.max_side < max(height, width) else ""

    def by_pixels(self, gray: np.ndarray) -> tuple[str, float]:
        """As `by_size`, and the value that was measured. gray: uint8 [h, w]."""
        if self.blockiness and (value := blockiness_of(gray)) > self.blockiness:
            return f"with blockiness above {self.blockiness:g}", value
        if self.blur and (value := sharpness_of(gray)) < self.blur:
            return f"with sharpness below {self.blur:g}", value
        return "", 0.0


def blockiness_of(gray: np.ndarray) -> float:
    """Mean step across the 8 x 8 grid of JPEG over the median step elsewhere; 1 without blocks. gray: uint8 [h, w].

    After Wang, Sheikh and Bovik (ICIP 2002). The grid may start anywhere, since images are cropped after compression:
    the largest of the 8 offsets is the grid, so noise gives slightly more than 1.
    """
    ratios = []
    for rows in (gray, gray.T):
        steps = np.abs(np.diff(rows.astype(np.int16), axis=0)).mean(axis=1)
        if len(steps) >= BLOCK:
            phases = steps[: len(steps) // BLOCK * BLOCK].reshape(-1, BLOCK).mean(axis=0)
            ratios.append((phases.max() + LEAST_STEP) / (np.median(phases) + LEAST_STEP))
    return float(np.mean(ratios)) if ratios else 1.0


def sharpness_of(gray: np.ndarray) -> float:
    """Variance of the Laplacian (Pech-Pacheco et al., ICPR 2000). gray: uint8 [h, w]."""
    wide = gray.astype(np.int16)
    inner = wide[1:-1, 1:-1]
    laplacian = wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:] - 4 * inner
    return float(laplacian.var(dtype=np.float32)) if laplacian.size else 0.0


def perceptual_hash(gray: np.ndarray) -> int:
    """The 64-bit DCT hash of ImageHash (pHash), which resizing and compression hardly change. gray: uint8 [h, w]."""
    import imagehash

    return int(str(imagehash.phash(Image.fromarray(gray))), 16)


def check_package() -> None:
    """Raise UserError without ImageHash."""
    try:
        import imagehash  # noqa: F401
    except ImportError:
        raise UserError("--dedupe needs the package ImageHash; run: pip install ImageHash") from None


def near_duplicates(hashes: Sequence[int], sizes: Sequence[int], most: int) -> dict[int, int]:
    """Return the images to drop, each with the larger one that is kept: hashes differ in at most `most` bits.

    Of `most` + 1 parts of two such hashes, one is equal, so that only images with an equal part are compared.
    """
    edges = [round(HASH_BITS * part / (most + 1)) for part in range(most + 2)]
    tables: list[defaultdict[int, list[int]]] = [defaultdict(list) for _ in range(most + 1)]
    dropped: dict[int, int] = {}
    for number in sorted(range(len(hashes)), key=lambda number: (-sizes[number], number)):
        mine = hashes[number]
        keys = [mine >> start & (1 << stop - start) - 1 for start, stop in pairwise(edges)]
        near = (other for table, key in zip(tables, keys, strict=True) for other in table[key])
        twin = next((other for other in near if (hashes[other] ^ mine).bit_count() <= most), None)
        if twin is not None:
            dropped[number] = twin
            continue
        for table, key in zip(tables, keys, strict=True):
            table[key].append(number)
    return dropped
