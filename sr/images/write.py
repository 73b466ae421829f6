"""Write images atomically, with as much of their data as the format can hold."""

import io
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sr.core.atomic import replacing
from sr.core.errors import UserError
from sr.images import meta, png
from sr.images.formats import WRITE_FORMATS
from sr.images.icc import icc_of_chunks, rgb_of_gray
from sr.images.image import ImageData
from sr.images.meta import Meta

MAX_SIDE = {"jpg": 65_500, "webp": 16_383}  # in pixels, for formats with a limit
WITH_ALPHA = "png", "webp", "tif"  # formats with alpha
DEEP = "png", "tif"  # formats with 16 bits
BAND = 256  # rows
FAST = {"compress_type": zlib.Z_RLE}  # of PNG, after filtering: far less time, a few percent larger


def encode_rgb(array: np.ndarray, format: str, *, quality: int = 95) -> bytes:
    """Encode uint8 [h, w, 3] as a file. format: png, jpg, webp, bmp, tif.

    jpg has full chroma resolution (4:4:4); webp is lossless at quality 100; png uses the default compression of zlib,
    for shards, which are read more often than written.
    """
    return _encode(Image.fromarray(array), format, quality, None, Meta(), {})


def write_rgb(path: str | Path, array: np.ndarray, *, quality: int = 95) -> None:
    """Write uint8 [h, w, 3] in the format of the path's suffix."""
    data = _encode(Image.fromarray(array), _format(path), quality, None, Meta(), FAST)
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_image(path: str | Path, image: ImageData, *, quality: int = 95) -> int:
    """Write in the format of the path's suffix; returns the size of the file in bytes.

    Gray, alpha, 16 bits, profile and metadata are kept if the format can hold them. For a format without alpha, the
    image is composited on white.

    Args:
        quality: of jpg and webp. A webp is lossless at 100, and if the input was a lossless webp.

    Raises:
        UserError: the format cannot hold the size or the color space of the image.
    """
    format = _format(path)
    longest, most = max(image.rgb.shape[-2:]), MAX_SIDE.get(format)
    if most is not None and longest > most:
        raise UserError(f"{longest} pixels are more than the {most} that {format} can hold in a row; give --format png")
    icc = _profile(path, image, format)
    if image.lossless and format == "webp":
        quality = 100
    if image.bands is not None:
        data = _tiff_bands(image, format)
        with replacing(path) as temporary:
            temporary.write_bytes(data)
        return len(data)
    deep = image.bits == 16 and format in DEEP
    pixels = quantized(image, deep=deep, clear=format in WITH_ALPHA)
    if not deep:
        encoded = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        data = _encode(encoded, format, quality, icc, image.meta, FAST)
    else:
        data = (_png16 if format == "png" else _tiff16)(pixels, icc, image.meta)
    if format == "png":  # Pillow does not write all of them
        data = data[: png.HEADER_END] + png.pack(image.meta.color) + data[png.HEADER_END :]
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return len(data)


def dropped(path: str | Path, image: ImageData) -> tuple[str, ...]:
    """What of the pixels the format of the path cannot hold, each as a short phrase."""
    format = _format(path)
    clear = image.alpha is not None and format not in WITH_ALPHA and bool((image.alpha < 1).any())
    found = [f"transparency is composited on white: {format} has none"] if clear else []
    if image.bits == 16 and format not in DEEP and image.bands is None:
        found.append(f"16 bits become 8: {format} has no more")
    stated = {kind for kind, _ in image.meta.color}
    if format == "bmp" and (image.icc or (stated and b"sRGB" not in stated)):
        found.append("the color profile is lost: bmp has none")
    return tuple(found)


def _profile(path: str | Path, image: ImageData, format: str) -> bytes | None:
    """The ICC profile to write.

    Formats other than PNG get a profile that is equivalent to the color chunks, and WebP, which has no gray, one of RGB
    that is equivalent to a gray profile.
    """
    try:
        icc = image.icc
        if not icc and format != "png" and image.meta.color:
            icc = icc_of_chunks(image.meta.color, gray=image.gray and format != "webp")
        return rgb_of_gray(icc) if icc and format == "webp" and icc[16:20] == b"GRAY" else icc
    except ValueError as error:
        raise UserError(f"{path}: {error}, which {format} cannot hold; give --format png") from None


def quantized(image: ImageData, *, deep: bool, clear: bool) -> np.ndarray:
    """Quantize to uint8 or uint16 [h, w, 1 to 4], in bands of rows to limit the memory footprint."""
    if image.rgb.dtype == torch.uint8:
        return image.rgb[: 1 if image.gray else 3].permute(1, 2, 0).contiguous().numpy()
    height, width = image.rgb.shape[-2:]
    count = (1 if image.gray else 3) + (clear and image.alpha is not None)
    pixels = np.empty((height, width, count), np.uint16 if deep else np.uint8)
    for first in range(0, height, BAND):
        rows = slice(first, first + BAND)
        planes = image.rgb[:, rows].cpu()
        planes = planes.mean(0, keepdim=True) if image.gray else planes
        if image.alpha is not None:
            alpha = image.alpha[:, rows].cpu()
            planes = torch.cat([planes, alpha]) if clear else planes * alpha + (1 - alpha)
        values = (planes.clamp(0, 1) * (65535 if deep else 255)).round_()
        pixels[rows] = values.permute(1, 2, 0).numpy().astype(pixels.dtype)
    return pixels


def _format(path: str | Path) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in WRITE_FORMATS:
        raise UserError(f"{path}: cannot write the format '{suffix}'; choose one of {', '.join(WRITE_FORMATS)}")
    return WRITE_FORMATS[suffix]


def _encode(
    image: Image.Image, format: str, quality: int, icc: bytes | None, about: Meta, png: Mapping[str, int]
) -> bytes:
    """Encode a file. png: compression options for Pillow."""
    kinds: dict[str, dict[str, Any]] = {
        "png": {"format": "PNG", **png},
        "jpg": {"format": "JPEG", "quality": quality, "subsampling": 0},
        "webp": {"format": "WEBP", "quality": quality, "lossless": quality == 100},
        "tif": {"format": "TIFF", "compression": "tiff_deflate"},
    }
    options = kinds.get(format, {"format": format.upper()})
    try:
        return _saved(image, icc, options | meta.options(about, options["format"]))
    except Exception:  # third-party metadata may be invalid; write the image without them
        if about == Meta():
            raise
        return _encode(image, format, quality, icc, Meta(), png)


def _saved(image: Image.Image, icc: bytes | None, options: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    image.save(file, icc_profile=icc, **options)
    return file.getvalue()


def _png16(pixels: np.ndarray, icc: bytes | None, about: Meta) -> bytes:
    """Encode a 16-bit PNG with the filter Up; Pillow writes 16 bits for gray only."""
    height, width, channels = pixels.shape
    rows = pixels.astype(">u2", order="C").view(np.uint8).reshape(height, -1)
    above = np.concatenate([np.zeros_like(rows[:1]), rows[:-1]])
    body = np.concatenate([np.full((height, 1), 2, np.uint8), rows - above], axis=1)
    color_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0))]
    chunks += [(b"iCCP", b"ICC\0\0" + zlib.compress(icc))] if icc else []
    chunks += [*meta.png_chunks(about), (b"IDAT", zlib.compress(body.tobytes(), 1)), (b"IEND", b"")]
    return png.SIGNATURE + png.pack(chunks)


def _tiff16(pixels: np.ndarray, icc: bytes | None, about: Meta) -> bytes:
    import tifffile  # Pillow cannot write 16-bit RGB

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
        software=False,
        resolution=about.dpi,
        resolutionunit=2 if about.dpi else None,
        extratags=meta.tiff_extra(about),
    )
    return file.getvalue()


def _tiff_bands(image: ImageData, format: str) -> bytes:
    import tifffile

    assert image.bands is not None
    if format != "tif":
        raise UserError(f"{format} cannot hold {image.bands.shape[0]} channels; give --format tif")
    deep = image.bits == 16
    values = (image.bands.cpu().clamp(0, 1) * (65535 if deep else 255)).round_()
    pixels = values.permute(1, 2, 0).contiguous().numpy().astype(np.uint16 if deep else np.uint8)
    file = io.BytesIO()
    settings: dict[str, Any] = {"planarconfig": "contig", "compression": "zlib", "metadata": None, "software": False}
    tifffile.imwrite(file, pixels, photometric="minisblack", extrasamples=[0] * (pixels.shape[2] - 1), **settings)
    return file.getvalue()
