"""Read images of any depth, orientation, palette and channel order; the bound on pixels holds before decoding."""

import contextlib
import io
import struct
import sys
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from sr.images import jpeg, png
from sr.images.color_space import read_color
from sr.images.formats import READ_FORMATS
from sr.images.image import ImageData, ImageError
from sr.images.limits import MAX_PIXELS, check_size
from sr.images.meta import Meta, read_meta, read_tiff_meta
from sr.images.tiff import is_tiff, read_bands, read_tiff, tiff_size

# Pillow has a limit of 89 million pixels, low for scans; ours is checked before decoding, in `_open`.
Image.MAX_IMAGE_PIXELS = None

Source = str | Path | bytes
FORMATS = tuple(sorted({*READ_FORMATS.values()} - {"TIFF"}))  # of Pillow; TIFF has a reader of its own


@dataclass(frozen=True)
class _Read:
    """pixels: uint8 or uint16 [h, w, 1 to 4 channels: grey or RGB, then alpha if any]. See ImageData for the others."""

    pixels: np.ndarray
    icc: bytes | None = None
    meta: Meta = field(default_factory=Meta)
    missing_rows: float = 0.0
    lossless: bool = False
    notes: tuple[str, ...] = ()


def read_rgb(source: Source, *, name: str | None = None) -> np.ndarray:
    """Read an image as uint8 [h, w, 3], in the orientation that EXIF asks for; `name` stands for it in errors.

    Grey is repeated, palettes and CMYK are converted, alpha is dropped, 16 bits are rounded to 8, and of an
    animation the first frame is taken. Raises ImageError, also where rows are missing.
    """
    return read_pixels(source, channels=3, name=name)


def read_pixels(source: Source, *, channels: int, name: str | None = None) -> np.ndarray:
    """Like `read_rgb`, as uint8 [h, w, channels]: grey, grey and alpha, RGB, RGB and alpha (see `with_channels`), or
    from 5 on the bands of a TIFF of 8 or 16 bits, as they are stored. Raises ImageError.
    """
    pixels = _read(source, name, bands=channels).pixels if channels <= 4 else _read_bands(source, channels, name)
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return with_channels(pixels, channels)


def with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """uint8 [h, w, 1 to 4] -> [h, w, channels]. Grey out of RGB is Pillow's L (ITU-R 601 luma); alpha is 255 where
    there was none. Raises ValueError for more than 4, unless it is so many already.
    """
    given = pixels.shape[2]
    if given != channels:
        if max(given, channels) > 4:
            raise ValueError(f"has {given} channels, not {channels}")
        planes = pixels[..., :3] if given >= 3 else pixels[..., :1]
        if channels <= 2 < given:
            planes = np.asarray(Image.fromarray(planes).convert("L"))[..., None]
        elif given <= 2 < channels:
            planes = planes.repeat(3, axis=2)
        if channels in (2, 4):
            alpha = pixels[..., -1:] if given in (2, 4) else np.full_like(pixels[..., :1], 255)
            planes = np.concatenate([planes, alpha], axis=2)
        pixels = planes
    return np.ascontiguousarray(pixels)


def read_image(
    source: Source,
    *,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
    first_frame: bool = True,
    partial: bool = False,
    bands: int = 0,
) -> ImageData:
    """Like `read_rgb`, with nothing dropped. Raises ImageError.

    Args:
        bands: number of channels that the caller needs. Above 4 the file has to be a TIFF of so many bands; of 2 to 4,
            samples of a TIFF that have no meaning are kept.
        first_frame: False refuses what holds several frames or pages.
        partial: True reads as many rows as there are of a JPEG or PNG that is cut short; see `missing_rows`.
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
    """(height, width) as `read_rgb` would return it, from the header alone. Raises ImageError."""
    try:
        if _is_tiff(source):
            return tiff_size(_file(source))
        with _open(source) as image:
            turned = _orientation(image) in (5, 6, 7, 8)
            return image.size if turned else (image.height, image.width)
    except Exception as error:
        raise _unreadable(source, name, error) from None


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
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        if is_tiff(data[:4]):
            return _from_tiff(data, max_pixels, bands, first_frame)
        with _open(data, max_pixels) as image:
            if not first_frame:
                _check_still(image)
            kind = image.format
        read = _repaired(data, kind)
        if read.missing_rows and not partial:
            raise ValueError(f"is cut short: {read.missing_rows:.0%} of its rows are missing or incomplete")
        return read
    except Exception as error:  # decoders raise all sorts on damaged input, and none of it may end a run
        raise _unreadable(source, name, error) from None


def _repaired(data: bytes, kind: str | None) -> _Read:
    """Decode; of a JPEG or PNG that is cut short, what there is."""
    missing = 0.0
    if kind in ("JPEG", "MPO"):
        data, missing = jpeg.complete(data)
    elif kind == "PNG" and not png.is_whole(data):
        data, missing = png.complete(data)
        if missing == 1:
            raise ValueError("is cut short: it holds no row of pixels")
    return replace(_decoded(data), missing_rows=missing)


def _decoded(data: bytes) -> _Read:
    with _open(data) as image:
        key = png.transparent_color(data) if image.format == "PNG" else None
        if key is not None:
            image.info.pop("transparency", None)  # Pillow compares it to samples that are scaled already
        pixels = _pixels(image, data)
        if key is not None:
            depth = png.header_of(data).depth
            pixels = _with_clear(pixels, key * (255 // (2**depth - 1)) if depth < 8 else key)
        color = read_color(image, data)
        meta = replace(read_meta(image), color=color.chunks)
        return _Read(pixels, color.icc, meta, lossless=_is_lossless_webp(data), notes=color.notes)


def _pixels(image: Image.Image, data: bytes) -> np.ndarray:
    """uint8 or uint16 [h, w, channels], upright."""
    if image.format == "PPM" and image.mode == "RGB" and (deep_ppm := _deep_ppm(image, data)) is not None:
        return deep_ppm
    raw = _raw_mode(image)
    deep = image.mode in ("RGB", "RGBA") and ";16" in raw and not raw.startswith("LA")
    pixels = np.asarray(_upright(image))
    if deep:
        # Pillow keeps the upper byte of 16-bit colours; read with the other byte order it gives the lower.
        with _open(data) as twin:
            twin.info.pop("transparency", None)
            _swap_bytes(twin)
            pixels = pixels.astype(np.uint16) << 8 | np.asarray(_upright(twin))
    elif image.format == "PNG" and raw.startswith("LA;16"):
        pixels = _deep_grey_and_alpha(data)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _deep_ppm(image: Image.Image, data: bytes) -> np.ndarray | None:
    """uint16 [h, w, 3] of a binary PPM of two bytes a sample, of which Pillow gives 8 bits. None for another."""
    tile = image.tile[0]  # type: ignore[attr-defined]
    white = tile.args[1] if tile.codec_name == "ppm" else 255
    if white <= 255:
        return None
    values = np.frombuffer(data, ">u2", image.width * image.height * 3, tile.offset).astype(np.uint32)
    pixels = np.minimum((values * 65535 + white // 2) // white, 65535).astype(np.uint16)
    return pixels.reshape(image.height, image.width, 3)


def _with_clear(pixels: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Add alpha: 0 where a pixel has the colour `key`."""
    clear = (pixels == key).all(axis=2, keepdims=True)
    return np.concatenate([pixels, np.where(clear, 0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)], axis=2)


def _from_tiff(data: bytes, max_pixels: int, bands: int, first_page: bool) -> _Read:
    read = read_tiff(data, max_pixels=max_pixels, bands=bands, first_page=first_page)
    notes = (f"{read.dropped} extra channels without a meaning are left out",) if read.dropped else ()
    pixels, icc = read.pixels, read.icc
    if read.cmyk:
        pixels, icc = np.asarray(_seen(Image.fromarray(np.ascontiguousarray(pixels), "CMYK"), icc)), None
    return _Read(np.ascontiguousarray(pixels), icc, read_tiff_meta(data), notes=notes)


def _read_bands(source: Source, channels: int, name: str | None, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """uint8 or uint16 [h, w, channels] of a TIFF, whose bands may be samples, planes or pages."""
    try:
        return read_bands(_file(source), channels, max_pixels)
    except Exception as error:
        raise _unreadable(source, name, error) from None


def _file(source: Source) -> str | Path | io.BytesIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source


def _is_tiff(source: Source) -> bool:
    if isinstance(source, bytes):
        return is_tiff(source[:4])
    with open(source, "rb") as file:
        return is_tiff(file.read(4))


def _is_lossless_webp(data: bytes) -> bool:
    """By its chunks (RFC 9649)."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return False
    place = 12
    while place + 8 <= len(data):
        if data[place : place + 4] in (b"VP8L", b"VP8 ", b"ANMF"):
            return data[place : place + 4] == b"VP8L"
        place += 8 + (int.from_bytes(data[place + 4 : place + 8], "little") + 1) // 2 * 2
    return False


def _orientation(image: Image.Image) -> int:
    with contextlib.suppress(Exception):
        return image.getexif().get(0x0112, 1)
    return 1


def _open(source: Source, max_pixels: int = MAX_PIXELS) -> Image.Image:
    image = Image.open(_file(source), formats=FORMATS)
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
        raise ValueError(f"holds {count} frames; take the first by --first-frame, or convert it to a video")


def _upright(image: Image.Image) -> Image.Image | np.ndarray:
    """Decoded, turned as EXIF asks, in a mode of grey or RGB with or without alpha; 16-bit grey as an array."""
    image.load()
    with contextlib.suppress(Exception):  # a table that is damaged tells of no turn
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("32-bit pixels have no known white; convert it to 16 bits")
        return values.astype(np.uint16)
    if image.mode == "F":
        raise ValueError("float pixels have no known white; convert it to 16 bits")
    if image.mode == "CMYK":
        return _seen(image, image.info.get("icc_profile"))
    clear = "transparency" in image.info or image.mode in ("La", "LA", "PA", "RGBa", "RGBA")
    gray = image.mode in ("1", "L", "La", "LA")
    mode = ("L" if gray else "RGB") + ("A" if clear else "")
    return image if image.mode == mode else image.convert(mode)


def _seen(inks: Image.Image, profile: bytes | None) -> Image.Image:
    """CMYK as sRGB: by the file's profile, else (or where that is broken) by Pillow's plain formula."""
    with contextlib.suppress(ImageCms.PyCMSError, OSError, TypeError, ValueError):
        if profile:
            made = ImageCms.profileToProfile(
                inks, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            if made is not None:
                return made
    return inks.convert("RGB")


def _raw_mode(image: Image.Image) -> str:
    """How the file lays out its samples, in Pillow's words; the last letter is the byte order (N for the machine's)."""
    args = image.tile[0].args if getattr(image, "tile", None) else ""  # type: ignore[attr-defined]
    return str(args[0] if isinstance(args, tuple) else args)


def _swap_bytes(image: Image.Image) -> None:
    """Have the file read as if it were of the other byte order."""
    raw = _raw_mode(image)
    native = "L" if sys.byteorder == "little" else "B"
    swapped = raw[:-1] + {"L": "B", "B": "L"}[native if raw[-1] == "N" else raw[-1]]
    image.tile = [  # type: ignore[attr-defined]
        tile._replace(args=(swapped, *tile.args[1:]) if isinstance(tile.args, tuple) else swapped)
        for tile in image.tile  # type: ignore[attr-defined]
    ]


def _deep_grey_and_alpha(source: bytes) -> np.ndarray:
    """uint16 [h, w, 2] of a PNG, of which Pillow gives the upper bytes alone.

    Read as RGBA of 8 bits, whose four bytes a pixel go through the same filters, it gives all of them.
    """
    data = bytearray(source)
    data[24:26] = 8, 6
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with _open(bytes(data)) as twin:
        halves = np.asarray(_upright(twin)).astype(np.uint16)
    return halves[..., 0::2] << 8 | halves[..., 1::2]


def _unreadable(source: Source, name: str | None, error: Exception) -> ImageError:
    shown = name or ("image" if isinstance(source, bytes) else str(source))
    if isinstance(error, UnidentifiedImageError):
        return ImageError(shown, "not an image in a known format")
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return ImageError(shown, " ".join(str(reason).split()))
