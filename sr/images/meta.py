"""What an image file says about itself beside its pixels: EXIF, resolution, text, XMP.

Kept as far as the format that is written can hold it; what the new pixels make wrong is left out: the orientation,
which was applied, the size and the thumbnail. A damaged part is left out too: no image is refused for it.
"""

import contextlib
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sr.images.png import Chunk
from sr.images.xmp import clean

_MAIN = {  # of the first EXIF table, which in a TIFF is that of the image itself: those that describe, in words
    *(0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x8298),
    *(0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F, 0x4746, 0x4749),
}
_CAMERA, _PLACE = 0x8769, 0x8825
_STALE = {0xA002, 0xA003, 0xA005}  # width and height in pixels; the place of another table
_X, _Y, _UNIT, _XMP = 0x011A, 0x011B, 0x0128, 0x02BC
_XMP_KEY = "XML:com.adobe.xmp"
MOST_TEXT = 1 << 20  # bytes that are kept of any one part
JPEG_SEGMENT = 65_500  # bytes that a JPEG holds in one


@dataclass(frozen=True)
class Meta:
    """exif: tables as in a JPEG, behind "Exif\\0\\0". dpi: across and down. text: (keyword, value) as in a PNG.
    color: chunks of a PNG that state the meaning of the colours, beside any profile."""

    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    text: tuple[tuple[str, str], ...] = ()
    xmp: bytes | None = None
    color: tuple[Chunk, ...] = ()


def read_meta(image: Image.Image) -> Meta:
    """Of an image that is decoded and turned upright."""
    dpi = _dpi(image.getexif, image.info.get("dpi"))
    return Meta(_exif(image.getexif, dpi), dpi, _text(image), _xmp(image.info.get("xmp") or image.info.get(_XMP_KEY)))


def read_tiff_meta(data: bytes) -> Meta:
    """Of a TIFF file, whose first table is one of EXIF."""

    def table() -> Image.Exif:
        exif = Image.Exif()
        exif.load(b"Exif\0\0" + data)
        return exif

    dpi, xmp = _dpi(table, None), None
    with contextlib.suppress(Exception):
        xmp = table().get(_XMP)
    return Meta(_exif(table, dpi), dpi, (), _xmp(xmp))


def _exif(table: Callable[[], Image.Exif], dpi: tuple[float, float] | None) -> bytes | None:
    with contextlib.suppress(Exception):  # other people's tables break in all ways
        given, kept = table(), Image.Exif()
        for tag in _MAIN & given.keys():
            kept[tag] = given[tag]
        for place in (_CAMERA, _PLACE):
            rows = {tag: value for tag, value in given.get_ifd(place).items() if tag not in _STALE}
            if rows:
                kept.get_ifd(place).update(rows)
                kept[place] = rows
        if dpi:
            kept[_X], kept[_Y], kept[_UNIT] = *dpi, 2
        data = kept.tobytes()
        data = data if data.startswith(b"Exif\0\0") else b"Exif\0\0" + data
        return data if len(kept) and len(data) <= MOST_TEXT else None
    return None


def _dpi(table: Callable[[], Image.Exif], found: Any) -> tuple[float, float] | None:
    with contextlib.suppress(Exception):
        if found is None:
            exif = table()
            unit = {2: 1.0, 3: 2.54}[exif[_UNIT]]
            found = (exif[_X] * unit, exif[_Y] * unit)
        across, down = (float(value) for value in found)
        if all(math.isfinite(value) and 1 < value < 1e5 for value in (across, down)):
            return across, down
    return None


def _text(image: Image.Image) -> tuple[tuple[str, str], ...]:
    found: dict[str, Any] = dict(getattr(image, "text", {}))
    comment = image.info.get("comment")
    if isinstance(comment, bytes) and comment:
        found["Comment"] = comment.decode("utf-8", "replace")
    kept = {key: str(value) for key, value in found.items() if not key.startswith((_XMP_KEY, "Raw profile"))}
    return tuple((key, value) for key, value in kept.items() if len(value) <= MOST_TEXT)


def _xmp(found: Any) -> bytes | None:
    data = found.encode() if isinstance(found, str) else found
    return clean(data) if isinstance(data, bytes) and 0 < len(data) <= MOST_TEXT else None


# ---- into files ------------------------------------------------------------------------------------------------------


def options(meta: Meta, format: str) -> dict[str, Any]:
    """What Pillow's `save` takes for it. format: PNG, JPEG, WEBP, BMP, TIFF."""
    made: dict[str, Any] = {}
    if meta.dpi and format != "WEBP":
        made["dpi"] = tuple(round(value) for value in meta.dpi) if format == "JPEG" else meta.dpi
    if format == "PNG":
        made |= {"exif": meta.exif} if meta.exif else {}
        made["pnginfo"] = _png_info(meta)
    elif format in ("JPEG", "WEBP"):
        most = JPEG_SEGMENT if format == "JPEG" else MOST_TEXT
        parts = {"exif": meta.exif, "xmp": meta.xmp}
        made |= {name: part for name, part in parts.items() if part and len(part) <= most}
        comment = dict(meta.text).get("Comment", "").encode()
        if format == "JPEG" and 0 < len(comment) <= JPEG_SEGMENT:
            made["comment"] = comment
    elif format == "TIFF":
        made["tiffinfo"] = main_tags(meta) | ({_XMP: meta.xmp} if meta.xmp else {})
    return made


def main_tags(meta: Meta) -> dict[int, str]:
    """Those in words out of the first table: a TIFF keeps these."""
    exif = Image.Exif()
    with contextlib.suppress(Exception):
        exif.load(meta.exif or b"")
    return {tag: value for tag, value in exif.items() if tag in _MAIN and isinstance(value, str)}


def tiff_extra(meta: Meta) -> list[tuple[int, str, int, Any, bool]]:
    """The same for tifffile's `extratags`."""
    tags: list[tuple[int, str, int, Any, bool]] = [(tag, "s", 0, text, True) for tag, text in main_tags(meta).items()]
    return tags + ([(_XMP, "B", len(meta.xmp), meta.xmp, True)] if meta.xmp else [])


def png_chunks(meta: Meta) -> list[tuple[bytes, bytes]]:
    """(kind, data) to stand before the pixels of a PNG."""
    chunks = []
    if meta.dpi:
        chunks.append((b"pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in meta.dpi), 1)))
    if meta.exif:
        chunks.append((b"eXIf", meta.exif.removeprefix(b"Exif\0\0")))
    return chunks + _png_info(meta).chunks_of_text()


class _Text(PngInfo):
    """Pillow's list of chunks, which it keeps to itself."""

    def chunks_of_text(self) -> list[tuple[bytes, bytes]]:
        return [(chunk[0], chunk[1]) for chunk in self.chunks]


def _png_info(meta: Meta) -> _Text:
    made = _Text()
    for key, value in meta.text:
        with contextlib.suppress(Exception):  # a keyword that no PNG can have
            latin = value.isascii()
            name = key.encode("latin-1")[:79].decode("latin-1") or "Comment"
            made.add_text(name, value) if latin else made.add_itxt(name, value)
    if meta.xmp:
        made.add_itxt(_XMP_KEY, meta.xmp.decode("utf-8", "replace"))
    return made
