"""Read images of any bit depth, orientation, palette and channel layout. Sizes are checked before decoding."""

import contextlib
import io
import re
import struct
import sys
import warnings
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError, features

from sr.images import jp2, jpeg, jxl, png
from sr.images.color_space import read_color
from sr.images.formats import READ_FORMATS
from sr.images.image import ImageData, ImageError
from sr.images.limits import MAX_PIXELS, check_size
from sr.images.meta import Meta, read_meta, read_tiff_meta
from sr.images.tiff import is_tiff, read_bands, read_tiff, tiff_bands, tiff_size

# Replaces Pillow's limit of 89 million pixels, which is low for scans; `_open` checks the size before decoding.
Image.MAX_IMAGE_PIXELS = None
warnings.filterwarnings("ignore", module=r"PIL\.")  # of damaged metadata, which are dropped

Source = str | Path | bytes
FORMATS = tuple(sorted({*READ_FORMATS.values()} - {"TIFF", "JXL"}))  # of Pillow; for these see sr.images.tiff, jxl


@dataclass(frozen=True)
class _Read:
    """pixels: uint8 or uint16 [h, w, channels], gray or RGB, then alpha if any. For the others see ImageData."""

    pixels: np.ndarray
    icc: bytes | None = None
    meta: Meta = field(default_factory=Meta)
    missing_rows: float = 0.0
    lossless: bool = False
    notes: tuple[str, ...] = ()


def read_rgb(source: Source, *, name: str | None = None) -> np.ndarray:
    """Read an image as uint8 [h, w, 3] with the EXIF orientation applied.

    Gray is repeated, palettes and CMYK are converted, alpha is dropped, 16 bits are rounded to 8, and of an animation
    the first frame is read.

    Args:
        source: path, or the bytes of a file.
        name: used in errors instead of the path.

    Raises:
        ImageError: the image cannot be read, or lacks rows.
    """
    return read_pixels(source, channels=3, name=name)


def read_pixels(source: Source, *, channels: int, name: str | None = None, deep: bool = False) -> np.ndarray:
    """Read an image like `read_rgb` as uint8 [h, w, channels].

    Args:
        channels: 1 to 4 for gray, gray and alpha, RGB, RGB and alpha (see `with_channels`). From 5 on, the stored bands
            of a TIFF of 8 or 16 bits.
        deep: return images of 16 bits as uint16.

    Raises:
        ImageError: the image cannot be read, lacks rows, or has another number of bands.
    """
    return read_opaque(source, channels=channels, name=name, deep=deep)[0]


def read_opaque(
    source: Source, *, channels: int, name: str | None = None, deep: bool = False
) -> tuple[np.ndarray, bool]:
    """`read_pixels`, and whether transparency was dropped."""
    pixels = _read(source, name, bands=channels).pixels if channels <= 4 else _read_bands(source, channels, name)
    if not deep:
        pixels = eight_bits(pixels)
    white = np.iinfo(pixels.dtype).max
    dropped = pixels.shape[2] in (2, 4) and channels in (1, 3) and bool((pixels[..., -1] < white).any())
    return with_channels(pixels, channels), dropped


def eight_bits(pixels: np.ndarray) -> np.ndarray:
    """Round uint16 to uint8, both from black to white; uint8 is returned unchanged."""
    return pixels if pixels.dtype == np.uint8 else ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Convert uint8 or uint16 [h, w, 1 to 4] to [h, w, channels].

    RGB becomes gray by Pillow's mode L (ITU-R 601 luma). Missing alpha becomes opaque.

    Raises:
        ValueError: a number of channels is above 4 and they differ.
    """
    given = pixels.shape[2]
    if given != channels:
        if max(given, channels) > 4:
            raise ValueError(f"has {given} channels, not {channels}")
        planes = pixels[..., :3] if given >= 3 else pixels[..., :1]
        if channels <= 2 < given:
            planes = _luma(planes)
        elif given <= 2 < channels:
            planes = planes.repeat(3, axis=2)
        if channels in (2, 4):
            alpha = pixels[..., -1:] if given in (2, 4) else np.full_like(pixels[..., :1], np.iinfo(pixels.dtype).max)
            planes = np.concatenate([planes, alpha], axis=2)
        pixels = planes
    return np.ascontiguousarray(pixels)


def _luma(rgb: np.ndarray) -> np.ndarray:
    """[h, w, 3] -> [h, w, 1], by Pillow's integer weights for both depths."""
    if rgb.dtype == np.uint8:
        return np.asarray(Image.fromarray(rgb).convert("L"))[..., None]
    red, green, blue = (rgb[..., channel : channel + 1].astype(np.uint32) for channel in range(3))
    return ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).astype(np.uint16)


def read_image(
    source: Source,
    *,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
    first_frame: bool = True,
    partial: bool = False,
    bands: int = 0,
) -> ImageData:
    """Read an image with alpha, 16 bits, profile and metadata.

    Args:
        source: path, or the bytes of a file.
        name: used in errors instead of the path.
        max_pixels: larger images are refused before decoding.
        first_frame: read the first frame or page of several; False refuses such files.
        partial: read the rows that a truncated JPEG or PNG holds (see `ImageData.missing_rows`) instead of refusing it.
        bands: number of channels that the caller needs. Above 4, the file must be a TIFF of this many bands; from 2 to
            4, extra samples of a TIFF are kept even if they are not declared as alpha.

    Raises:
        ImageError: the image cannot be read.
    """
    if bands > 4:
        read = _Read(_read_bands(source, bands, name, max_pixels), None, Meta())
    else:
        read = _read(source, name, max_pixels=max_pixels, first_frame=first_frame, partial=partial, bands=bands)
    bits: Literal[8, 16] = 16 if read.pixels.dtype == np.uint16 else 8
    planes = torch.from_numpy(read.pixels.transpose(2, 0, 1).astype(np.float32))
    planes /= 2**bits - 1
    channels = planes.shape[0]
    return ImageData(
        rgb=planes[:3] if channels >= 3 else planes[:1].repeat(3, 1, 1),
        alpha=planes[-1:] if channels in (2, 4) else None,
        gray=channels <= 2,
        bits=bits,
        icc=read.icc,
        meta=read.meta,
        lossless=read.lossless,
        missing_rows=read.missing_rows,
        notes=read.notes,
        bands=planes if channels > 4 else None,
    )


def size_of(source: Source, *, name: str | None = None) -> tuple[int, int]:
    """Read (height, width) of the oriented image from its header. Raises ImageError."""
    try:
        if is_tiff(_head(source)):
            return tiff_size(_file(source))
        try:
            opened = _open(source)
        except UnidentifiedImageError:
            opened = _open(png.without_damaged_chunks(_bytes(source)))
        with opened as image:
            turned = _orientation(image) in (5, 6, 7, 8)
            return image.size if turned else (image.height, image.width)
    except Exception as error:
        raise _unreadable(source, name, error) from None


def has_alpha(path: Path) -> bool:
    """Whether the header of a file states transparency; False for files that Pillow cannot open."""
    try:
        with _open(path) as image:
            return image.has_transparency_data
    except Exception:  # reported where it is read
        return False


# ---- decoding --------------------------------------------------------------------------------------------------------


def _read(
    source: Source,
    name: str | None,
    *,
    max_pixels: int = MAX_PIXELS,
    first_frame: bool = True,
    partial: bool = False,
    bands: int = 0,
) -> _Read:
    try:
        data = png.without_damaged_chunks(_bytes(source))
        if is_tiff(data[:4]):
            return _from_tiff(data, max_pixels, bands, first_frame)
        with _open(data, max_pixels) as image:
            if not first_frame:
                _check_still(image)
            kind = image.format
        read = _decode_partially(data, kind)
        if read.missing_rows and not partial:
            raise ValueError(f"is truncated: {read.missing_rows:.0%} of its rows are missing or incomplete")
        return read
    except Exception as error:  # on damaged files, decoders raise exceptions of any type
        raise _unreadable(source, name, error) from None


def _decode_partially(data: bytes, kind: str | None) -> _Read:
    """Decode an image, or the rows that a truncated JPEG or PNG holds."""
    missing = 0.0
    if kind in ("JPEG", "MPO"):
        data, missing = jpeg.complete(data)
    elif kind == "PNG" and not png.is_whole(data):
        data, missing = png.complete(data)
        if missing == 1:
            raise ValueError("is truncated before the first row of pixels")
    return replace(_decoded(data), missing_rows=missing)


def _decoded(data: bytes) -> _Read:
    with _open(data) as image:
        key = png.transparent_color(data) if image.format == "PNG" else None
        if key is not None:
            image.info.pop("transparency", None)  # Pillow compares it with scaled samples
        pixels = _pixels(image, data)
        if key is not None:
            depth = png.header_of(data).depth
            pixels = _with_transparent(pixels, key * (255 // (2**depth - 1)) if depth < 8 else key)
        color = read_color(image, data)
        meta = replace(read_meta(image), color=color.chunks)
        return _Read(pixels, color.icc, meta, lossless=_is_lossless_webp(data), notes=color.notes)


def _pixels(image: Image.Image, data: bytes) -> np.ndarray:
    """Pixels as uint8 or uint16 [h, w, channels], oriented."""
    if image.format == "PPM" and image.mode == "RGB" and (deep_ppm := _deep_ppm(image, data)) is not None:
        return deep_ppm
    if image.format == "JPEG2000" and (deep_jp2 := jp2.deep_pixels(image, data)) is not None:
        return deep_jp2
    raw = _raw_mode(image)
    deep = image.mode in ("RGB", "RGBA") and raw[-4:-1] == ";16" and not raw.startswith("LA")  # not BGR;16, 5-6-5 bits
    pixels = np.asarray(_upright(image))
    if deep:
        # Pillow keeps the upper byte of 16-bit RGB; with the byte order swapped it keeps the lower.
        with _open(data) as twin:
            twin.info.pop("transparency", None)
            _swap_bytes(twin)
            pixels = pixels.astype(np.uint16) << 8 | np.asarray(_upright(twin))
    elif image.format == "PNG" and raw.startswith("LA;16"):
        pixels = _deep_gray_and_alpha(data)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _deep_ppm(image: Image.Image, data: bytes) -> np.ndarray | None:
    """Pixels as uint16 [h, w, 3] of a PPM with samples above 255, which Pillow reduces to 8 bits; else None."""
    tile = image.tile[0]  # type: ignore[attr-defined]
    white = tile.args[1] if tile.codec_name in ("ppm", "ppm_plain") else 255
    if white <= 255:
        return None
    count = image.width * image.height * 3
    if tile.codec_name == "ppm":
        values = np.frombuffer(data, ">u2", count, tile.offset).astype(np.uint32)
    else:
        values = np.array(re.sub(rb"#[^\r\n]*", b"", data[tile.offset :]).split()[:count]).astype(np.uint32)
    pixels = np.minimum((values * 65535 + white // 2) // white, 65535).astype(np.uint16)
    return pixels.reshape(image.height, image.width, 3)


def _with_transparent(pixels: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Add an alpha channel that is 0 where a pixel has the color `key`."""
    transparent = (pixels == key).all(axis=2, keepdims=True)
    return np.concatenate([pixels, np.where(transparent, 0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)], axis=2)


def _from_tiff(data: bytes, max_pixels: int, bands: int, first_page: bool) -> _Read:
    read = read_tiff(data, max_pixels=max_pixels, bands=bands, first_page=first_page)
    notes = [f"{read.dropped} extra channel(s) of unknown meaning were dropped"] if read.dropped else []
    notes += ["its damaged color tags were dropped"] if read.color_damaged else []
    pixels, icc = read.pixels, read.icc
    if read.cmyk:
        pixels, icc = np.asarray(_cmyk_to_srgb(Image.fromarray(np.ascontiguousarray(pixels), "CMYK"), icc)), None
    return _Read(np.ascontiguousarray(pixels), icc, read_tiff_meta(data), notes=tuple(notes))


def _read_bands(source: Source, channels: int, name: str | None, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Bands of a TIFF, stored as samples, planes or pages, as uint8 or uint16 [h, w, channels]."""
    try:
        return read_bands(_file(source), channels, max_pixels)
    except Exception as error:
        raise _unreadable(source, name, error) from None


def _bytes(source: Source) -> bytes:
    return source if isinstance(source, bytes) else Path(source).read_bytes()


def count_bands(path: Path) -> int:
    """The number of channels of a TIFF that has more than 4; 0 for all other files."""
    if not is_tiff(_head(path)):
        return 0
    try:
        return tiff_bands(path)
    except Exception as error:
        raise _unreadable(path, None, error) from None


def _file(source: Source) -> str | Path | io.BytesIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source


def _head(source: Source) -> bytes:
    if isinstance(source, bytes):
        return source[:16]
    with open(source, "rb") as file:
        return file.read(16)


def _is_lossless_webp(data: bytes) -> bool:
    """Whether the file is a lossless WebP, by its chunks (RFC 9649)."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return False
    place = 12
    while place + 8 <= len(data):
        if data[place : place + 4] in (b"VP8L", b"VP8 ", b"ANMF"):
            return data[place : place + 4] == b"VP8L"
        place += 8 + (int.from_bytes(data[place + 4 : place + 8], "little") + 1) // 2 * 2
    return False


def _orientation(image: Image.Image) -> int:
    if image.format == "JXL":  # the decoder has applied it
        return 1
    with contextlib.suppress(Exception):
        return image.getexif().get(0x0112, 1)
    return 1


def _open(source: Source, max_pixels: int = MAX_PIXELS) -> Image.Image:
    image = jxl.open_jxl(_file(source)) if jxl.is_jxl(_head(source)) else Image.open(_file(source), formats=FORMATS)
    try:
        check_size(image.width, image.height, max_pixels)
    except ValueError:
        image.close()
        raise
    return image


def _check_still(image: Image.Image) -> None:
    """Raise ValueError for an animation. An MPO of a camera counts as one image with a preview."""
    count = getattr(image, "n_frames", 1)
    if count > 1 and image.format != "MPO":
        raise ValueError(f"holds {count} frames; read the first with --first-frame, or convert it to a video")


def _upright(image: Image.Image) -> Image.Image | np.ndarray:
    """Decode, apply the EXIF orientation and convert to gray or RGB with or without alpha; 16-bit gray is an array."""
    image.load()
    with contextlib.suppress(Exception):  # a damaged EXIF table has no orientation
        if _orientation(image) != 1:
            ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("32-bit pixels have no known white level; convert it to 16 bits")
        return values.astype(np.uint16)
    if image.mode == "F":
        raise ValueError("float pixels have no known white level; convert it to 16 bits")
    if image.mode == "CMYK":
        return _cmyk_to_srgb(image, image.info.get("icc_profile"))
    has_alpha = "transparency" in image.info or image.mode in ("La", "LA", "PA", "RGBa", "RGBA")
    gray = image.mode in ("1", "L", "La", "LA")
    mode = ("L" if gray else "RGB") + ("A" if has_alpha else "")
    return image if image.mode == mode else image.convert(mode)


def _cmyk_to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert CMYK to sRGB by the profile of the file, or by Pillow's formula if there is no valid one."""
    with contextlib.suppress(ImageCms.PyCMSError, OSError, TypeError, ValueError):
        if profile:
            made = ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            if made is not None:
                return made
    return image.convert("RGB")


def _raw_mode(image: Image.Image) -> str:
    """Pillow's name of the sample layout in the file; the last letter is the byte order (N for native)."""
    tiles = getattr(image, "tile", None)
    args = getattr(tiles[0], "args", "") if tiles else ""  # JPEG XL has plain tuples
    return str(args[0] if isinstance(args, tuple) else args)


def _swap_bytes(image: Image.Image) -> None:
    """Make Pillow read the file with the other byte order."""
    raw = _raw_mode(image)
    native = "L" if sys.byteorder == "little" else "B"
    swapped = raw[:-1] + {"L": "B", "B": "L"}[native if raw[-1] == "N" else raw[-1]]
    image.tile = [  # type: ignore[attr-defined]
        tile._replace(args=(swapped, *tile.args[1:]) if isinstance(tile.args, tuple) else swapped)
        for tile in image.tile  # type: ignore[attr-defined]
    ]


def _deep_gray_and_alpha(source: bytes) -> np.ndarray:
    """Pixels as uint16 [h, w, 2] of a PNG, of which Pillow keeps the upper bytes only.

    Read as 8-bit RGBA, which has the same 4 bytes per pixel and therefore the same filters, all bytes are kept.
    """
    data = bytearray(source)
    data[24:26] = 8, 6
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with _open(bytes(data)) as twin:
        halves = np.asarray(_upright(twin)).astype(np.uint16)
    return halves[..., 0::2] << 8 | halves[..., 1::2]


UNKNOWN = "not an image in a known format"
NAMES = {  # of formats that people have and Pillow does not read, by a pattern of their first bytes
    rb"....ftyp(hei[cx]|hev[cx]|mif1|msf1)": "HEIF (HEIC)",
    **({} if features.check("avif") else {rb"....ftypavi[fs]": "AVIF"}),
    rb"....ftypcrx |II.\0......CR|FUJIFILMCCD-RAW": "a camera's raw file",
    rb"8BPS": "a Photoshop document",
    rb"v/1\x01": "OpenEXR",
    rb"#\?RADIANCE|#\?RGBE": "Radiance HDR",
    rb"%PDF": "PDF",
    rb"\s*<(?=.{0,1000}<svg[\s>])|<svg[\s>]": "SVG",
}


def _name_of(source: Source) -> str:
    with contextlib.suppress(OSError):
        head = _bytes(source)[:4096]
        return next((name for pattern, name in NAMES.items() if re.match(pattern, head, re.DOTALL)), "")
    return ""


def _unreadable(source: Source, name: str | None, error: Exception) -> ImageError:
    shown = name or ("image" if isinstance(source, bytes) else str(source))
    if isinstance(error, UnidentifiedImageError):
        known = _name_of(source)
        return ImageError(shown, f"is {known}, which is not read; convert it to PNG" if known else UNKNOWN)
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return ImageError(shown, " ".join(str(reason).split()))
