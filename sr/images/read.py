"""Reading: any depth, orientation, palette and channel order, within a bound on pixels that holds before decoding."""

import contextlib
import io
import struct
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from sr.images.image import MAX_PIXELS, ImageData, ImageError
from sr.images.meta import Meta, read_meta

# Pillow has a bound of its own at 89 million pixels, low for scans; ours is checked before decoding, in `_open`.
Image.MAX_IMAGE_PIXELS = None

Source = str | Path | bytes
FORMATS = "PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "QOI", "PPM", "JPEG2000"
"""What is decoded, whatever a file is called. Pillow knows more, and runs other programs for some of it (EPS)."""


@dataclass(frozen=True)
class _Read:
    """pixels: uint8 or uint16 [h, w, 1 to 4 channels: grey or RGB, then alpha if any]."""

    pixels: np.ndarray
    icc: bytes | None
    meta: Meta


def read_rgb(source: Source, *, name: str | None = None) -> np.ndarray:
    """The image as uint8 [h, w, 3], in the orientation that EXIF asks for; `name` stands for it in errors.

    Grey is repeated, palettes and CMYK are converted, alpha is dropped, 16 bits are rounded to 8, and of an
    animation the first frame is taken. Raises ImageError.
    """
    return read_pixels(source, channels=3, name=name)


def read_pixels(source: Source, *, channels: int, name: str | None = None) -> np.ndarray:
    """Like `read_rgb`, as uint8 [h, w, channels]: grey, grey and alpha, RGB, RGB and alpha (see `with_channels`), or
    from 5 on the bands of a TIFF of 8 or 16 bits, as they are stored. Raises ImageError.
    """
    pixels = _read(source, name).pixels if channels <= 4 else _read_bands(source, channels, name)
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
    source: Source, *, name: str | None = None, max_pixels: int = MAX_PIXELS, first_frame: bool = True
) -> ImageData:
    """Like `read_rgb`, with nothing dropped. first_frame: False refuses what holds several frames or pages.

    Raises ImageError.
    """
    read = _read(source, name, max_pixels=max_pixels, first_frame=first_frame)
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
    )


def size_of(source: Source, *, name: str | None = None) -> tuple[int, int]:
    """(height, width) as `read_rgb` would return it, from the header alone. Raises ImageError."""
    try:
        with _open(source) as image:
            # (Of a TIFF, Pillow tells the size after turning.)
            turned = image.format != "TIFF" and _orientation(image) in (5, 6, 7, 8)
            return image.size if turned else (image.height, image.width)
    except Exception as error:
        raise _unreadable(source, name, error) from None


def _read(source: Source, name: str | None, *, max_pixels: int = MAX_PIXELS, first_frame: bool = True) -> _Read:
    try:
        with _open(source, max_pixels) as image:
            if not first_frame:
                _check_still(image)
            raw = _raw_mode(image)
            deep = image.mode in ("RGB", "RGBA") and ";16" in raw and not raw.startswith("LA")
            pixels = np.asarray(_upright(image))
            if deep:
                # Pillow keeps the upper byte of 16-bit colours; read with the other byte order it gives the lower.
                with _open(source, max_pixels) as twin:
                    _swap_bytes(twin)
                    pixels = pixels.astype(np.uint16) << 8 | np.asarray(_upright(twin))
            elif image.format == "PNG" and raw.startswith("LA;16"):
                pixels = _deep_grey_and_alpha(source)
            icc = None if image.mode == "CMYK" else image.info.get("icc_profile")
            return _Read(pixels[..., None] if pixels.ndim == 2 else pixels, icc, read_meta(image))
    except Exception as error:  # decoders raise all sorts on damaged input, and none of it may end a run
        if isinstance(error, UnidentifiedImageError):
            with contextlib.suppress(ImageError):  # a TIFF of deep grey and alpha, which Pillow does not know
                return _Read(_read_bands(source, 2, name, max_pixels), None, Meta())
        raise _unreadable(source, name, error) from None


def _read_bands(source: Source, channels: int, name: str | None, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """uint8 or uint16 [h, w, channels] of a TIFF, whose bands may be samples, planes or pages."""
    import tifffile  # Pillow opens no such TIFF

    try:
        with tifffile.TiffFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            stored = file.series[0]
            bands = [axis for axis, letter in enumerate(stored.axes) if letter not in "YX"]
            if len(bands) != 1 or stored.ndim != 3 or stored.shape[bands[0]] != channels:
                raise ValueError(f"holds {'x'.join(map(str, stored.shape))} values, not height x width x {channels}")
            if stored.dtype not in (np.uint8, np.uint16):
                raise ValueError(f"{stored.dtype} pixels have no known white; convert it to 16 bits")
            if stored.size > max_pixels * channels:
                raise ValueError(f"{stored.size // channels} pixels are more than the {max_pixels} allowed")
            return np.moveaxis(stored.asarray(), bands[0], 2)
    except Exception as error:
        raise _unreadable(source, name, error) from None


def _orientation(image: Image.Image) -> int:
    with contextlib.suppress(Exception):
        return image.getexif().get(0x0112, 1)
    return 1


def _open(source: Source, max_pixels: int = MAX_PIXELS) -> Image.Image:
    image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    if image.width * image.height > max_pixels:
        image.close()
        raise ValueError(f"{image.width}x{image.height} pixels are more than the {max_pixels} allowed")
    return image


def _check_still(image: Image.Image) -> None:
    """Raises ValueError for an animation or several pages. (A camera's MPO is a still with a preview behind it.)"""
    count = getattr(image, "n_frames", 1)
    if count > 1 and image.format != "MPO":
        what = "pages" if image.format == "TIFF" else "frames"
        raise ValueError(f"holds {count} {what}; take the first by --first-frame, or convert it to a video")


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
        return _seen(image)
    clear = "transparency" in image.info or image.mode in ("La", "LA", "PA", "RGBa", "RGBA")
    gray = image.mode in ("1", "L", "La", "LA")
    mode = ("L" if gray else "RGB") + ("A" if clear else "")
    return image if image.mode == mode else image.convert(mode)


def _seen(inks: Image.Image) -> Image.Image:
    """CMYK as sRGB: by the file's profile, else (or where that is broken) by Pillow's plain formula."""
    profile = inks.info.get("icc_profile")
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


def _deep_grey_and_alpha(source: Source) -> np.ndarray:
    """uint16 [h, w, 2] of a PNG, of which Pillow gives the upper bytes alone.

    Read as RGBA of 8 bits, whose four bytes a pixel go through the same filters, it gives all of them.
    """
    data = bytearray(source if isinstance(source, bytes) else Path(source).read_bytes())
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
