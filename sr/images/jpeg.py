"""Truncated JPEG files (ITU-T T.81)."""

import io
import re
from collections.abc import Iterator

import numpy as np
from PIL import Image

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
SCAN, PROGRESSIVE = 0xDA, (0xC2, 0xC6, 0xCA, 0xCE)
ALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a length
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # ends a scan: not a stuffed byte, a fill byte or a restart marker


def complete(data: bytes) -> tuple[bytes, float]:
    """Add the end marker that a truncated file lacks.

    Complete files are returned unchanged, without decoding.

    Returns:
        The file, and the share of its rows that are missing or incomplete.

    Raises:
        ValueError: no row can be decoded. Also the exceptions of Pillow.
    """
    if data.endswith(EOI) or any(kind == EOI[1] for kind, _, _ in _segments(data)):
        return data, 0.0
    cut = data.rstrip(b"\0")  # preallocated files end in zeros
    cut = cut[:-1] if cut.endswith(b"\xff") else cut
    ends = {kind: end for kind, _, end in _segments(cut)}
    if SCAN not in ends:
        return data, 0.0  # nothing to decode
    cut = cut[: max(ends.values())]
    missing = _missing_rows(cut)
    if missing == 1 and not any(kind in PROGRESSIVE for kind in ends):
        raise ValueError("is truncated before the first row of pixels")
    return cut + EOI, missing


def _segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield (marker, content, end position) of every complete segment of the first image."""
    place = 2
    while place + 2 <= len(data) and data[place] == 0xFF:
        kind = data[place + 1]
        if kind == 0xFF or kind in ALONE:
            place += 1 if kind == 0xFF else 2
            continue
        if kind == EOI[1]:
            yield kind, b"", place + 2
            return
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        if length < 2 or place + 2 + length > len(data):
            return
        content = data[place + 4 : place + 2 + length]
        place += 2 + length
        if kind == SCAN:
            found = _MARKER.search(data, place)
            place = found.start() if found else len(data)
        yield kind, content, place


def _missing_rows(cut: bytes) -> float:
    """Compare two decodings with different data after the cut: rows from the first difference on are missing."""
    if not _all_scans_begun(cut):
        return 1.0
    rest = np.random.default_rng(0).integers(0, 255, 1 << 16, dtype=np.uint8).tobytes()  # no 0xff
    one, other = (np.asarray(_decoded(cut + more + EOI)) for more in (b"", rest))
    differs = np.flatnonzero((one != other).reshape(len(one), -1).any(axis=1))
    return 1 - float(differs[0]) / len(one) if len(differs) else 0.0


def _decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=["JPEG"])
    image.load()
    return image


def _all_scans_begun(data: bytes) -> bool:
    """Whether the scans cover all coefficients of all components to their last bit (T.81, annex G)."""
    components: tuple[int, ...] = ()
    lowest: dict[int, dict[int, int]] = {}
    for kind, content, _ in _segments(data):
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            components = tuple(content[6::3])
        elif kind == SCAN:
            count = content[0]
            first, last, bits = content[1 + 2 * count : 4 + 2 * count]
            for component in content[1 : 1 + 2 * count : 2]:
                lowest.setdefault(component, {}).update(dict.fromkeys(range(first, last + 1), bits & 15))
    return all(len(lowest.get(c, {})) == 64 and not any(lowest[c].values()) for c in components)
