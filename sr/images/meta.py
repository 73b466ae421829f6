"""Metadata of image files: EXIF, resolution, text, XMP and color chunks.

Metadata are copied as far as the output format allows. Properties that do not hold for the new pixels are dropped: the
orientation, which is applied to the pixels, the size, and the thumbnail. Damaged metadata are dropped too.
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

_MAIN = {  # descriptive tags of the first EXIF table, which in a TIFF is that of the image
    *(0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x8298),
    *(0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F, 0x4746, 0x4749),
}
_CAMERA, _PLACE = 0x8769, 0x8825
_STALE = {0xA002, 0xA003, 0xA005}  # width and height in pixels; offset of the interoperability table
_X, _Y, _UNIT, _XMP = 0x011A, 0x011B, 0x0128, 0x02BC
_XMP_KEY = "XML:com.adobe.xmp"
MAX_BYTES = 1 << 20  # of one EXIF block, text or XMP packet; larger ones are dropped
JPEG_SEGMENT = 65_500  # bytes of one segment of a JPEG


@dataclass(frozen=True)
class Meta:
    """Metadata of an image.

    Attributes:
        exif: tables as in a JPEG, after "Exif\\0\\0".
        dpi: horizontal and vertical resolution.
        text: (keyword, value) as in a PNG.
        xmp: the packet.
        color: PNG color chunks, in addition to any ICC profile.
    """

    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    text: tuple[tuple[str, str], ...] = ()
    xmp: bytes | None = None
    color: tuple[Chunk, ...] = ()


def read_meta(image: Image.Image) -> Meta:
    """Read the metadata of an image that is decoded and oriented."""
    dpi = _dpi(image.getexif, image.info.get("dpi"))
    return Meta(_exif(image.getexif, dpi), dpi, _text(image), _xmp(image.info.get("xmp") or image.info.get(_XMP_KEY)))


def read_tiff_meta(data: bytes) -> Meta:
    """Read the metadata of a TIFF, whose first table is an EXIF table."""

    def table() -> Image.Exif:
        exif = Image.Exif()
        exif.load(b"Exif\0\0" + data)
        return exif

    dpi, xmp = _dpi(table, None), None
    with contextlib.suppress(Exception):
        xmp = table().get(_XMP)
    return Meta(_exif(table, dpi), dpi, (), _xmp(xmp))


def _exif(table: Callable[[], Image.Exif], dpi: tuple[float, float] | None) -> bytes | None:
    with contextlib.suppress(Exception):  # third-party EXIF may be damaged in any way
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
        return data if len(kept) and len(data) <= MAX_BYTES else None
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
    return tuple((key, value) for key, value in kept.items() if len(value) <= MAX_BYTES)


def _xmp(found: Any) -> bytes | None:
    data = found.encode() if isinstance(found, str) else found
    return clean(data) if isinstance(data, bytes) and 0 < len(data) <= MAX_BYTES else None


# ---- writing ---------------------------------------------------------------------------------------------------------


def options(meta: Meta, format: str) -> dict[str, Any]:
    """Keyword arguments for Pillow's `save`. format: PNG, JPEG, WEBP, BMP, TIFF."""
    made: dict[str, Any] = {}
    if meta.dpi and format != "WEBP":
        made["dpi"] = tuple(round(value) for value in meta.dpi) if format == "JPEG" else meta.dpi
    if format == "PNG":
        made |= {"exif": meta.exif} if meta.exif else {}
        made["pnginfo"] = _png_info(meta)
    elif format in ("JPEG", "WEBP"):
        most = JPEG_SEGMENT if format == "JPEG" else MAX_BYTES
        parts = {"exif": meta.exif, "xmp": meta.xmp}
        made |= {name: part for name, part in parts.items() if part and len(part) <= most}
        comment = dict(meta.text).get("Comment", "").encode()
        if format == "JPEG" and 0 < len(comment) <= JPEG_SEGMENT:
            made["comment"] = comment
    elif format == "TIFF":
        made["tiffinfo"] = main_tags(meta) | ({_XMP: meta.xmp} if meta.xmp else {})
    return made


def main_tags(meta: Meta) -> dict[int, str]:
    """The textual tags of the first EXIF table, which a TIFF can hold."""
    exif = Image.Exif()
    with contextlib.suppress(Exception):
        exif.load(meta.exif or b"")
    return {tag: value for tag, value in exif.items() if tag in _MAIN and isinstance(value, str)}


def tiff_extra(meta: Meta) -> list[tuple[int, str, int, Any, bool]]:
    """The same tags, and XMP, for `extratags` of tifffile."""
    tags: list[tuple[int, str, int, Any, bool]] = [(tag, "s", 0, text, True) for tag, text in main_tags(meta).items()]
    return tags + ([(_XMP, "B", len(meta.xmp), meta.xmp, True)] if meta.xmp else [])


def png_chunks(meta: Meta) -> list[tuple[bytes, bytes]]:
    """Chunks to write before the pixels of a PNG."""
    chunks = []
    if meta.dpi:
        chunks.append((b"pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in meta.dpi), 1)))
    if meta.exif:
        chunks.append((b"eXIf", meta.exif.removeprefix(b"Exif\0\0")))
    return chunks + _png_info(meta).chunks_of_text()


class _Text(PngInfo):
    """Pillow's list of text chunks, with access to them."""

    def chunks_of_text(self) -> list[tuple[bytes, bytes]]:
        return [(chunk[0], chunk[1]) for chunk in self.chunks]


def _png_info(meta: Meta) -> _Text:
    made = _Text()
    for key, value in meta.text:
        with contextlib.suppress(Exception):  # an invalid keyword
            latin = value.isascii()
            name = key.encode("latin-1")[:79].decode("latin-1") or "Comment"
            made.add_text(name, value) if latin else made.add_itxt(name, value)
    if meta.xmp:
        made.add_itxt(_XMP_KEY, meta.xmp.decode("utf-8", "replace"))
    return made
