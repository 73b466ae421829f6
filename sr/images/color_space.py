"""Color space of a file: its ICC profile, PNG color chunks, and their equivalents in AVIF, JPEG 2000 and EXIF."""

import contextlib
import struct
from typing import NamedTuple

import numpy as np
from PIL import Image

from sr.images import png
from sr.images.icc import adobe_rgb, icc_of_chunks

INTEROPERABILITY, ADOBE = 0xA005, "R03"  # EXIF table, and its value for Adobe RGB (DCF 2.0)
EIGHT_BITS = ("channels of more than 8 bits were reduced to 8",)  # by Pillow
HEAD = 1 << 16  # bytes that are searched for boxes of AVIF and JPEG 2000


class Color(NamedTuple):
    """icc: ICC profile. chunks: PNG color chunks, of the file or equivalent to its statement. notes: of ImageData."""

    icc: bytes | None = None
    chunks: tuple[png.Chunk, ...] = ()
    notes: tuple[str, ...] = ()


def read_color(image: Image.Image, data: bytes) -> Color:
    """Read the color space of an image that Pillow has opened from `data`."""
    icc = None if image.mode == "CMYK" else image.info.get("icc_profile") or None  # the pixels are converted to sRGB
    kind = image.format
    if kind == "PNG":
        given = png.head_chunks(data)
        chunks = tuple((name, given[name]) for name in png.COLOR_CHUNKS if name in given)
        return Color(icc, tuple(chunk for chunk in chunks if _is_valid(chunk)))
    if kind == "AVIF":
        return Color(icc, () if icc else _nclx(data), EIGHT_BITS if _is_deep_avif(data) else ())
    if kind == "JPEG2000":
        return Color(icc or _restricted_icc(data))
    if kind == "JXL":
        return Color(icc, notes=EIGHT_BITS if image.info["bits_per_sample"] > 8 else ())
    return Color(icc or (_exif_icc(image) if image.mode == "RGB" else None))


def _is_valid(chunk: png.Chunk) -> bool:
    """Whether a color chunk has its size and describes colors; viewers ignore others, such as a gamma of 0."""
    if len(chunk[1]) != png.LENGTHS[chunk[0]]:
        return False
    try:
        icc_of_chunks([chunk], gray=False)
    except (ArithmeticError, struct.error, np.linalg.LinAlgError):  # zero, out of range, no triangle
        return False
    except ValueError:  # HDR, which PNG can hold
        return True
    return True


def _nclx(data: bytes) -> tuple[png.Chunk, ...]:
    """The color box of an AVIF (ISO 14496-12, 12.1.5) as a cICP chunk; none for sRGB and unspecified colors."""
    place = data[:HEAD].find(b"colrnclx")
    if place < 0 or place + 14 > len(data):
        return ()
    primaries, transfer = struct.unpack_from(">HH", data, place + 8)
    usual = primaries in (1, 2) and transfer in (2, 13)
    return () if usual else ((b"cICP", bytes([primaries & 255, transfer & 255, 0, 1])),)


def _is_deep_avif(data: bytes) -> bool:
    """Whether an AVIF has more than 8 bits, by its configuration box (AV1 in ISOBMFF, 2.3)."""
    place = data[:HEAD].find(b"av1C")
    return place >= 0 and place + 7 <= len(data) and bool(data[place + 6] & 0x40)


def _restricted_icc(data: bytes) -> bytes | None:
    """The ICC profile in the color box of a JPEG 2000 (ISO 15444-1, I.5.3.3)."""
    place = data[:HEAD].find(b"colr")
    if place < 4 or data[place + 4 : place + 5] != b"\2":
        return None
    length = int.from_bytes(data[place - 4 : place], "big")
    profile = data[place + 7 : place - 4 + length]
    return profile if profile[36:40] == b"acsp" else None


def _exif_icc(image: Image.Image) -> bytes | None:
    with contextlib.suppress(Exception):  # third-party EXIF may be damaged in any way
        if image.getexif().get_ifd(INTEROPERABILITY).get(1) == ADOBE:
            return adobe_rgb()
    return None
