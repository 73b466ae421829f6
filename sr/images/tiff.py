"""Read TIFF 6.0 and BigTIFF as gray, RGB or bands. Files that are not fully understood are refused.

tifffile decodes. What it needs the package imagecodecs for (LZW, CCITT, Zstandard, WebP; 2, 4 and 12 bits) is decoded
by Pillow's libtiff where that package is not installed, and so is JPEG.
"""

import importlib.util
import io
import logging
import math
import struct
import sys
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from sr.images.icc import icc_of_tiff
from sr.images.limits import check_size

logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)  # its warnings are checked here or become errors

PREFIXES = b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"
MINISWHITE, MINISBLACK, RGB, PALETTE, SEPARATED, YCBCR = 0, 1, 2, 3, 5, 6
COLOR_SAMPLES = {
    MINISWHITE: 1,
    MINISBLACK: 1,
    RGB: 3,
    PALETTE: 1,
    SEPARATED: 4,
    YCBCR: 3,
}  # number of samples without extra ones
ASSOCIATED, UNASSOCIATED = 1, 2  # premultiplied alpha, or not; 0 is a sample of unknown meaning
JPEG = 7
TIFFFILE = 1, 8, 32773, 32946, 34925  # compressions that tifffile decodes alone: none, Deflate, PackBits, LZMA
PILLOW = 1, 2, 3, 4, 5, 7, 8, 32773, 32946, 50000  # and Pillow: CCITT, LZW, JPEG, Zstandard
SUBFILE = 1 | 4  # reduced copies and masks
ICC, INK_SET, ORIENTATION, PHOTOMETRIC, EXTRA_SAMPLES = 34675, 332, 274, 262, 338
BY_FORMULA = {529: (0.299, 0.587, 0.114), 532: (0, 255, 128, 255, 128, 255)}  # YCbCr coefficients and range of JFIF


class Tiff(NamedTuple):
    """A decoded page.

    Attributes:
        pixels: uint8 or uint16 [h, w, samples], oriented: gray, gray and alpha, RGB, RGB and alpha, CMYK, or bands.
        icc: ICC profile, of the file or equivalent to its color tags.
        cmyk: whether pixels are CMYK as uint8 [h, w, 4], where 0 is no ink.
        dropped: number of extra samples of unknown meaning that were dropped.
        color_damaged: whether its color tags have no meaning.
    """

    pixels: np.ndarray
    icc: bytes | None = None
    cmyk: bool = False
    dropped: int = 0
    color_damaged: bool = False


def is_tiff(head: bytes) -> bool:
    return head.startswith(PREFIXES)


def tiff_size(source: Any) -> tuple[int, int]:
    """Read (height, width) of the oriented image from the header of a path or a binary file."""
    import tifffile

    with tifffile.TiffFile(source) as file:
        page = _pages(file)[0]
        size = page.imagelength, page.imagewidth
        check_size(*size[::-1])
        return size[::-1] if _orientation(page) >= 5 else size


def read_tiff(data: bytes, *, max_pixels: int, bands: int = 0, first_page: bool = True) -> Tiff:
    """Decode the first page.

    Args:
        data: the file.
        max_pixels: larger images are refused before decoding.
        bands: if pixels have exactly this many samples and some are of unknown meaning, return all as stored.
        first_page: False refuses files with several pages, not counting reduced copies and masks.

    Raises:
        ValueError: the file is damaged or not understood. Also the exceptions of tifffile and Pillow.
    """
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        pages = _pages(file)
        if len(pages) > 1 and not first_page:
            raise ValueError(f"holds {len(pages)} pages; read the first with --first-frame, or convert it to a video")
        page = pages[0]
        check_size(page.imagewidth, page.imagelength, max_pixels)
        _check(page)
        samples = _decoded(data, page)
        read = _bands(page, samples) if page.samplesperpixel == bands > 1 else None
        read = read or _interpreted(page, samples)
        try:
            icc = _profile(page, read.pixels.shape[2])
        except (ArithmeticError, IndexError, TypeError, ValueError, np.linalg.LinAlgError):  # a white point of 1/0
            icc, read = None, read._replace(color_damaged=True)
        return read._replace(pixels=_oriented(read.pixels, _orientation(page)), icc=icc)


def read_bands(source: Any, count: int, max_pixels: int) -> np.ndarray:
    """Decode bands, stored as samples, planes or pages, as uint8 or uint16 [h, w, count].

    Args:
        source: path or binary file.
        count: number of bands that the file must hold.
        max_pixels: larger images are refused before decoding.
    """
    import tifffile

    with tifffile.TiffFile(source) as file:
        stored, page = file.series[0], file.pages[0]
        bands = [axis for axis, letter in enumerate(stored.axes) if letter not in "YX"]
        if len(bands) != 1 or stored.ndim != 3 or stored.shape[bands[0]] != count:
            raise ValueError(f"holds {'x'.join(map(str, stored.shape))} values, not height x width x {count}")
        if page.photometric not in (MINISBLACK, RGB) or stored.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"{stored.dtype} pixels have no known white level; convert it to 16 bits")
        if stored.size > max_pixels * count:
            raise ValueError(f"{stored.size // count} pixels are more than the {max_pixels} allowed")
        for part in stored.pages:
            _check_segments(part.aspage())
        values = full_range(np.moveaxis(stored.asarray(), bands[0], 2), page.bitspersample)
        return _oriented(values, _orientation(page))


def tiff_bands(source: Any) -> int:
    """The number of bands that `read_bands` would return, where it is above 4; else 0."""
    import tifffile

    with tifffile.TiffFile(source) as file:
        stored = file.series[0]
        counts = [length for length, letter in zip(stored.shape, stored.axes, strict=True) if letter not in "YX"]
        return counts[0] if len(counts) == 1 and counts[0] > 4 else 0


def _pages(file: Any) -> list[Any]:
    pages = [page for page in file.pages if not getattr(page, "subfiletype", 0) & SUBFILE]
    if not pages:
        raise ValueError("holds only a reduced copy of an image; export the full image with the program that wrote it")
    return [page.aspage() for page in pages[:1]] + pages[1:]


def _profile(page: Any, samples: int) -> bytes | None:
    if (icc := page.tags.get(ICC)) is not None:
        return bytes(icc.value)
    tags = {code: page.tags[code].value for code in (301, 318, 319) if code in page.tags}
    tags |= {code: _rationals(tags[code]) for code in (318, 319) if code in tags}
    return icc_of_tiff(tags, gray=samples <= 2) if page.photometric in (MINISBLACK, RGB) else None


def _orientation(page: Any) -> int:
    tag = page.tags.get(ORIENTATION)
    return int(tag.value) if tag is not None and tag.value in range(1, 9) else 1


def _oriented(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Apply the orientation, 1 to 8 as in EXIF."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


# ---- interpretation --------------------------------------------------------------------------------------------------


def _check(page: Any) -> None:
    """Raise ValueError for pixels that are not understood."""
    if page.photometric not in COLOR_SAMPLES:
        raise ValueError(f"{_name(page.photometric)} pixels are not supported; convert it to RGB or gray")
    kinds = {1: "", 2: "signed", 3: "float", 4: "", 5: "complex", 6: "complex"}
    kind, bits = kinds.get(int(page.sampleformat or 1), "unknown"), page.bitspersample
    if kind or not isinstance(bits, int) or bits > 16:
        kind = kind or (f"{bits}-bit" if isinstance(bits, int) else f"{'-'.join(map(str, bits))}-bit")
        raise ValueError(f"{kind} pixels have no known white level; convert it to 16 bits")
    if page.imagedepth != 1:
        raise ValueError(f"holds a volume of {page.imagedepth} slices; save them as images")
    if page.samplesperpixel < COLOR_SAMPLES[page.photometric]:
        raise ValueError(f"{page.samplesperpixel} samples per pixel are too few for {_name(page.photometric)}")
    if page.photometric == PALETTE and page.colormap is None:
        raise ValueError("lacks the color map of its palette; convert it to RGB")
    ink_set = page.tags.get(INK_SET)
    if page.photometric == SEPARATED and ink_set is not None and ink_set.value != 1:
        raise ValueError("inks other than CMYK are not supported; convert it to RGB")
    if page.photometric == YCBCR and page.compression != JPEG:
        given = {code: _rationals(page.tags[code].value) for code in BY_FORMULA if code in page.tags}
        usual = all(np.allclose(value, BY_FORMULA[code], atol=1e-3) for code, value in given.items())
        if bits != 8 or page.is_subsampled or not usual or not _tifffile_can(page):
            raise ValueError("YCbCr pixels of this kind are not supported; convert it to RGB")


def _rationals(values: Any) -> list[float]:
    """Convert alternating numerators and denominators to numbers."""
    return [a / b for a, b in zip(values[::2], values[1::2], strict=True)]


def _name(photometric: Any) -> str:
    return str(getattr(photometric, "name", photometric))


def _interpreted(page: Any, samples: np.ndarray) -> Tiff:
    """Convert stored samples [h, w, samples] to gray or RGB, with alpha if an extra sample is declared as alpha."""
    count, bits = COLOR_SAMPLES[page.photometric], page.bitspersample
    extra = [*page.extrasamples, *[0] * samples.shape[2]][: samples.shape[2] - count]
    alpha = next((n for n, kind in enumerate(extra) if kind in (ASSOCIATED, UNASSOCIATED)), None)
    dropped = page.samplesperpixel - count - (alpha is not None)
    if dropped and count == 1:
        raise ValueError(f"holds {page.samplesperpixel} bands of unknown meaning; convert it to RGB or gray")
    colors = samples[..., :count]
    if page.photometric == PALETTE:
        colors, color_bits = _palette(page.colormap)[colors[..., 0]], 8
    else:
        colors, color_bits = full_range(colors, bits), 8 if bits <= 8 else 16
    if page.photometric == MINISWHITE:
        colors = ~colors
    if page.photometric == YCBCR and page.compression != JPEG:
        colors = np.asarray(Image.fromarray(np.ascontiguousarray(colors), "YCbCr").convert("RGB"))
    if page.photometric == SEPARATED:
        if alpha is not None:
            raise ValueError("CMYK with alpha is not supported; convert it to RGB")
        return Tiff(_eight_bits(colors), cmyk=True, dropped=dropped)
    if alpha is None:
        return Tiff(colors, dropped=dropped)
    alpha_values = full_range(samples[..., count + alpha : count + alpha + 1], bits)
    if color_bits == 8:
        alpha_values = _eight_bits(alpha_values)
    if extra[alpha] == ASSOCIATED:
        colors = _unpremultiplied(colors, alpha_values)
    return Tiff(np.concatenate([colors, alpha_values], axis=2), dropped=dropped)


def _bands(page: Any, samples: np.ndarray) -> Tiff | None:
    """All samples, if some are of unknown meaning; else None."""
    extra = [*page.extrasamples, *[0] * samples.shape[2]][: samples.shape[2] - COLOR_SAMPLES[page.photometric]]
    if page.photometric not in (MINISBLACK, RGB) or any(extra) or not extra:
        return None
    return Tiff(full_range(samples, page.bitspersample))


def full_range(values: np.ndarray, bits: int) -> np.ndarray:
    """Scale 0 .. 2**bits - 1 to uint8 0..255, or to uint16 0..65535 for more than 8 bits, rounded."""
    most, top = 2**bits - 1, 255 if bits <= 8 else 65535
    if most != top:
        values = (values.astype(np.uint32) * top + most // 2) // most
    return values.astype(np.uint8 if bits <= 8 else np.uint16, copy=False)


def _eight_bits(values: np.ndarray) -> np.ndarray:
    return values if values.dtype == np.uint8 else ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _palette(colormap: np.ndarray) -> np.ndarray:
    """Convert uint16 [3, n] to uint8 [n, 3]. Some programs write values of 8 bits, or only the upper byte."""
    colors = np.asarray(colormap, np.uint16).T
    if colors.max() < 256:
        return colors.astype(np.uint8)
    return (colors >> 8).astype(np.uint8) if not (colors & 255).any() else _eight_bits(colors)


def _unpremultiplied(colors: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Divide premultiplied colors by alpha; 0 where alpha is 0."""
    top = np.iinfo(colors.dtype).max
    divisor = np.maximum(alpha, 1).astype(np.uint64)
    made = np.minimum((colors.astype(np.uint64) * top + divisor // 2) // divisor, top)
    return np.where(alpha > 0, made, 0).astype(colors.dtype)


# ---- decoding --------------------------------------------------------------------------------------------------------


def _decoded(data: bytes, page: Any) -> np.ndarray:
    """Samples as stored, [h, w, samples]; JPEG is decoded from YCbCr to RGB."""
    contiguous = page.planarconfig == 1 or page.samplesperpixel == 1
    _check_segments(page)
    by_jpeg = page.compression == JPEG and (contiguous or page.photometric == YCBCR)  # which tifffile may not convert
    if by_jpeg or not _tifffile_can(page):
        planes = (
            page.bitspersample == 8 and COLOR_SAMPLES[page.photometric] >= 3
        )  # separate planes that Pillow decodes correctly
        if page.compression not in PILLOW or not (contiguous or planes):
            raise ValueError(_needs_imagecodecs(page))
        return _by_pillow(data, page)
    values = page.asarray(maxworkers=1)
    shape = page.imagelength, page.imagewidth, page.samplesperpixel
    return values.reshape(shape) if contiguous else np.moveaxis(values.reshape(shape[2], *shape[:2]), 0, 2)


def _tifffile_can(page: Any) -> bool:
    import tifffile

    if importlib.util.find_spec("imagecodecs"):
        return page.compression in tifffile.TIFF.DECOMPRESSORS and page.predictor in tifffile.TIFF.UNPREDICTORS
    return page.bitspersample in (1, 8, 16) and page.compression in TIFFFILE and page.predictor in (1, 2)


def _needs_imagecodecs(page: Any) -> str:
    layout = f"{_name(page.compression)} of {page.bitspersample} bits in this layout"
    return f"{layout} needs imagecodecs; run: pip install imagecodecs"


def _check_segments(page: Any) -> None:
    """Raise ValueError if strips or tiles are missing (tifffile returns black) or could exhaust memory."""
    count, there = math.prod(page.chunked), sum(offset > 0 for offset in page.dataoffsets)
    if there < count or len(page.databytecounts) < count or not all(page.databytecounts):
        raise ValueError(f"lacks {max(count - there, 1)} of its {count} strips or tiles")
    most = 2 * page.imagelength * page.imagewidth * page.samplesperpixel * ((page.bitspersample + 7) // 8) + 65536
    if sum(page.databytecounts) > most:
        raise ValueError("holds more data than its size allows; save it again")


def _by_pillow(data: bytes, page: Any) -> np.ndarray:
    """Like `_decoded`. Tags are changed so that Pillow does not invert, unpremultiply or rotate the samples."""
    bits, photometric = page.bitspersample, page.photometric
    changed = bytearray(data)
    _change(changed, page, ORIENTATION, 1)
    if photometric == MINISWHITE:
        _change(changed, page, PHOTOMETRIC, MINISBLACK)
    if ASSOCIATED in page.extrasamples[:1]:
        _change(changed, page, EXTRA_SAMPLES, UNASSOCIATED)
    with _opened(bytes(changed), page) as image:
        deep = bits == 16 and len(image.getbands()) > 1
        pixels = _stored(image)
    if deep:  # Pillow keeps the upper byte; with the byte order swapped it keeps the lower
        with _opened(bytes(changed), page) as twin:
            _swap_bytes(twin)
            pixels = pixels.astype(np.uint16) << 8 | _stored(twin)
    if pixels.shape[2] != page.samplesperpixel and (
        pixels.shape[2] < COLOR_SAMPLES[photometric] or any(page.extrasamples)
    ):
        raise ValueError(_needs_imagecodecs(page))
    if bits in (2, 4) and photometric != PALETTE:
        pixels = pixels // (255 // (2**bits - 1))
    return pixels


def _change(data: bytearray, page: Any, code: int, value: int) -> None:
    """Set the first value of a tag if the tag exists."""
    tag = page.tags.get(code)
    if tag is not None:
        form = {1: "B", 3: "H", 4: "I"}[int(tag.dtype)]
        struct.pack_into(page.parent.byteorder + form, data, tag.valueoffset, value)


def _opened(data: bytes, page: Any) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=["TIFF"])
    except UnidentifiedImageError:
        raise ValueError(_needs_imagecodecs(page)) from None
    if page.index:
        image.seek(page.index)
    return image


def _stored(image: Image.Image) -> np.ndarray:
    image.load()
    if image.mode not in ("1", "L", "P", "I;16", "I;16B", "LA", "RGB", "RGBA", "CMYK"):
        raise ValueError(f"{image.mode} pixels are not supported; convert it to RGB")
    pixels = np.asarray(image)
    pixels = pixels.astype(np.uint16 if pixels.dtype.itemsize > 1 else np.uint8, copy=False)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _swap_bytes(image: Image.Image) -> None:
    """Make Pillow read 16-bit samples with the other byte order."""
    raw = str(image.tile[0].args[0])  # type: ignore[attr-defined]
    native = "L" if sys.byteorder == "little" else "B"
    swapped = raw[:-1] + {"L": "B", "B": "L"}[native if raw[-1] == "N" else raw[-1]]
    image.tile = [tile._replace(args=(swapped, *tile.args[1:])) for tile in image.tile]  # type: ignore[attr-defined]
