"""Image files: found, read without surprises, and written whole or not at all."""

import io
import os
import struct
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from sr.atomic import replacing
from sr.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 500_000_000

# Pillow has a bound of its own at 89 million pixels, low for scans; ours is checked before decoding, in `_open`.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


class ImageError(UserError):
    """An image that cannot be read: `name` says which, `reason` why. The two arguments let it cross processes."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}; replace the file or take it out"


@dataclass(frozen=True)
class Picture:
    """An image with all that its file had to say about pixels.

    rgb: float32 [3, h, w] in 0..1 (a grey file has three equal channels). alpha: float32 [1, h, w] or None.
    bits: per channel in the file. icc: the colour profile that the values refer to.
    """

    rgb: Tensor
    alpha: Tensor | None = None
    gray: bool = False
    bits: Literal[8, 16] = 8
    icc: bytes | None = None


def list_images(folder: str | Path) -> list[Path]:
    """Every image file under a folder, by suffix in any case, sorted; hidden files and folders are passed over."""
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, f) for f in files if f.lower().endswith(SUFFIXES) and not f.startswith(".")]
    return sorted(found, key=lambda path: path.as_posix())


def read_rgb(source: str | Path | bytes, *, name: str | None = None) -> np.ndarray:
    """The image as uint8 [h, w, 3], in the orientation that EXIF asks for; `name` stands for it in errors.

    Grey is repeated, palettes and CMYK are converted, alpha is dropped, 16 bits are rounded to 8, and of an
    animation the first frame is taken. Raises ImageError.
    """
    return read_pixels(source, channels=3, name=name)


def read_pixels(source: str | Path | bytes, *, channels: int, name: str | None = None) -> np.ndarray:
    """Like `read_rgb`, as uint8 [h, w, channels]: grey, grey and alpha, RGB, RGB and alpha (see `with_channels`), or
    from 5 on the bands of a TIFF of 8 or 16 bits, as they are stored. Raises ImageError.
    """
    pixels = _read(source, name)[0] if channels <= 4 else _read_bands(source, channels, name)
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


def read_picture(source: str | Path | bytes, *, name: str | None = None) -> Picture:
    """Like `read_rgb`, with nothing dropped. (Pillow gives 16-bit grey with alpha as 8 bits.) Raises ImageError."""
    pixels, icc = _read(source, name)
    bits: Literal[8, 16] = 16 if pixels.dtype == np.uint16 else 8
    planes = torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32) / (2**bits - 1))
    channels = planes.shape[0]
    return Picture(
        rgb=planes[:3] if channels >= 3 else planes[:1].repeat(3, 1, 1),
        alpha=planes[-1:] if channels in (2, 4) else None,
        gray=channels <= 2,
        bits=bits,
        icc=icc,
    )


def size_of(source: str | Path | bytes, *, name: str | None = None) -> tuple[int, int]:
    """(height, width) as `read_rgb` would return it, from the header alone. Raises ImageError."""
    try:
        with _open(source) as image:
            # (Of a TIFF, Pillow tells the size after turning.)
            turned = image.format != "TIFF" and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return image.size if turned else (image.height, image.width)
    except Exception as error:
        raise _unreadable(source, name, error) from None


def encode_rgb(array: np.ndarray, format: str, *, quality: int = 95) -> bytes:
    """uint8 [h, w, 3] -> the bytes of a file. format: png, jpg, webp, bmp, tif.

    jpg keeps full colour resolution (4:4:4); webp is lossless at quality 100.
    """
    return _encode(Image.fromarray(array), format, quality, None)


def write_rgb(path: str | Path, array: np.ndarray, *, quality: int = 95) -> None:
    """Write uint8 [h, w, 3] in the format of the path's suffix."""
    data = encode_rgb(array, _format(path), quality=quality)
    with replacing(path) as aside:
        aside.write_bytes(data)


def write_picture(path: str | Path, picture: Picture, *, quality: int = 95) -> None:
    """Write in the format of the path's suffix, keeping grey, alpha, 16 bits and profile as far as the format can."""
    format = _format(path)
    planes = picture.rgb.mean(0, keepdim=True) if picture.gray else picture.rgb
    if picture.alpha is not None and format not in ("jpg", "jpeg", "bmp"):
        planes = torch.cat([planes, picture.alpha])
    deep = picture.bits == 16 and format in ("png", "tif", "tiff")
    top = 65535 if deep else 255
    pixels = (planes.clamp(0, 1).permute(1, 2, 0).double() * top).round().cpu().numpy()
    if not deep:
        shown = pixels.astype(np.uint8)
        data = _encode(Image.fromarray(shown[..., 0] if shown.shape[2] == 1 else shown), format, quality, picture.icc)
    else:
        data = (_png16 if format == "png" else _tiff16)(pixels.astype(np.uint16), picture.icc)
    with replacing(path) as aside:
        aside.write_bytes(data)


def _read(source: str | Path | bytes, name: str | None) -> tuple[np.ndarray, bytes | None]:
    """(uint8 or uint16 [h, w, 1 to 4 channels: grey or RGB, then alpha if any], colour profile)."""
    try:
        with _open(source) as image:
            deep = image.mode in ("RGB", "RGBA") and ";16" in _raw_mode(image)
            icc = None if image.mode == "CMYK" else image.info.get("icc_profile")
            pixels = np.asarray(_upright(image))
            if deep:
                # Pillow keeps the upper byte of 16-bit colours; read with the other byte order it gives the lower.
                with _open(source) as twin:
                    _swap_bytes(twin)
                    pixels = pixels.astype(np.uint16) << 8 | np.asarray(_upright(twin))
            return (pixels[..., None] if pixels.ndim == 2 else pixels), icc
    except Exception as error:  # decoders raise all sorts on damaged input, and none of it may end a run
        raise _unreadable(source, name, error) from None


def _read_bands(source: str | Path | bytes, channels: int, name: str | None) -> np.ndarray:
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
            if stored.size > MAX_PIXELS * channels:
                raise ValueError(f"{stored.size // channels} pixels are more than the {MAX_PIXELS} allowed")
            return np.moveaxis(stored.asarray(), bands[0], 2)
    except Exception as error:
        raise _unreadable(source, name, error) from None


def _open(source: str | Path | bytes) -> Image.Image:
    image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise ValueError(f"{image.width}x{image.height} pixels are more than the {MAX_PIXELS} allowed")
    return image


def _upright(image: Image.Image) -> Image.Image | np.ndarray:
    """Decoded, turned as EXIF asks, in a mode of grey or RGB with or without alpha; 16-bit grey as an array."""
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("32-bit pixels have no known white; convert it to 16 bits")
        return values.astype(np.uint16)
    if image.mode == "F":
        raise ValueError("float pixels have no known white; convert it to 16 bits")
    clear = "transparency" in image.info or image.mode in ("La", "LA", "PA", "RGBa", "RGBA")
    gray = image.mode in ("1", "L", "La", "LA")
    mode = ("L" if gray else "RGB") + ("A" if clear else "")
    return image if image.mode == mode else image.convert(mode)


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


def _unreadable(source: str | Path | bytes, name: str | None, error: Exception) -> ImageError:
    shown = name or ("image" if isinstance(source, bytes) else str(source))
    if isinstance(error, UnidentifiedImageError):
        return ImageError(shown, "not an image in a known format")
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return ImageError(shown, " ".join(str(reason).split()))


def _format(path: str | Path) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: no format called '{suffix}'; choose one of {', '.join(SUFFIXES)}")
    return suffix[1:]


def _encode(image: Image.Image, format: str, quality: int, icc: bytes | None) -> bytes:
    options = {
        "jpg": {"format": "JPEG", "quality": quality, "subsampling": 0},
        "webp": {"format": "WEBP", "quality": quality, "lossless": quality == 100},
        "tif": {"format": "TIFF", "compression": "tiff_deflate"},
    }.get({"jpeg": "jpg", "tiff": "tif"}.get(format, format), {"format": format.upper()})
    file = io.BytesIO()
    image.save(file, icc_profile=icc, **options)  # type: ignore[arg-type]
    return file.getvalue()


def _png16(pixels: np.ndarray, icc: bytes | None) -> bytes:
    """A 16-bit PNG, which Pillow writes for grey only. Every row is stored as its difference from the one above."""
    height, width, channels = pixels.shape
    rows = pixels.astype(">u2", order="C").view(np.uint8).reshape(height, -1)
    above = np.concatenate([np.zeros_like(rows[:1]), rows[:-1]])
    body = np.concatenate([np.full((height, 1), 2, np.uint8), rows - above], axis=1)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))]
    chunks += [(b"iCCP", b"ICC\0\0" + zlib.compress(icc))] if icc else []
    chunks += [(b"IDAT", zlib.compress(body.tobytes())), (b"IEND", b"")]
    framed = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def _tiff16(pixels: np.ndarray, icc: bytes | None) -> bytes:
    import tifffile  # Pillow has no 16-bit colour to write

    channels = pixels.shape[2]
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        pixels[..., 0] if channels == 1 else pixels,
        photometric="rgb" if channels >= 3 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        iccprofile=icc,
        compression="zlib",
        metadata=None,
    )
    return file.getvalue()
