"""Members of a shard: image files, and uint8 or uint16 arrays in NumPy's format.

An npy member [h, w, c] is mapped and not decoded, so that a crop reads its own rows only. The webdataset
library reads it too.
"""

import io
import math
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch

from sr.images import MAX_PIXELS, READ_SUFFIXES, ImageError, eight_bits, encode_rgb, read_pixels, size_of, with_channels

FORMATS = ("png", "jpg", "webp", "npy")  # that `encode` writes
MEMBER_SUFFIXES = (*READ_SUFFIXES, ".npy")
NPY_MAGIC = b"\x93NUMPY"
MOST_CHANNELS = 4096
JPEG_FRAMES = 0xC0, 0xC1, 0xC2  # baseline, extended, progressive
PLAIN_SEGMENTS = {0xC4, 0xDB, 0xDD, 0xE0, *range(0xE2, 0xF0), 0xFE}  # tables, comments, all APPn but APP1
START_OF_SCAN = 0xDA


def encode(pixels: np.ndarray, format: str, *, quality: int = 95) -> bytes:
    """Encode uint8 or uint16 [h, w, channels] in one of FORMATS: 3 channels as jpg, 3 or 4 as webp, up to 4 as png.

    quality: of jpg and webp, which have 8 bits.
    """
    if format == "npy":
        file = io.BytesIO()
        np.save(file, np.ascontiguousarray(pixels))
        return file.getvalue()
    if format == "png":
        return _encode_png(pixels)
    return encode_rgb(eight_bits(pixels), format, quality=quality)


def decode(data: bytes | memoryview, *, channels: int, name: str) -> np.ndarray:
    """Decode a member to uint8 or uint16 [h, w, channels] (see `sr.images.read_pixels`); its first bytes determine the
    format.

    The array need not be contiguous, and of npy it is a view of `data`: crop first, then copy. The size is checked
    before decoding. Raises ImageError.
    """
    decoder = next((make for magic, make in DECODERS.items() if data[: len(magic)] == magic), None)
    if decoder is None:
        return read_pixels(bytes(data), channels=channels, name=name, deep=True)
    try:
        pixels = decoder(data)
        if pixels is None:
            return read_pixels(bytes(data), channels=channels, name=name, deep=True)
        return pixels if pixels.shape[2] == channels else with_channels(pixels, channels)
    except ImageError:
        raise
    except Exception as error:  # decoders raise any exception on damaged input
        raise ImageError(name, " ".join(str(error).split()) or type(error).__name__) from None


def size_in(data: bytes, name: str) -> tuple[int, int]:
    """(height, width) of a member, from its first bytes. Raises ImageError if they do not suffice."""
    if not data.startswith(NPY_MAGIC):
        return size_of(data, name=name)
    try:
        return _npy_header(data[: 10 + int.from_bytes(data[8:10], "little")])[0][:2]
    except ValueError as error:
        raise ImageError(name, str(error)) from None


def _decode_npy(data: bytes | memoryview) -> np.ndarray:
    start = 10 + int.from_bytes(data[8:10], "little")
    shape, dtype = _npy_header(bytes(data[:start]))
    if len(data) - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{len(data) - start} bytes for {' x '.join(map(str, shape))} values of {dtype}")
    return np.frombuffer(data, dtype, offset=start).reshape(shape)


@lru_cache(maxsize=64)
def _npy_header(header: bytes) -> tuple[tuple[int, int, int], np.dtype]:
    file = io.BytesIO(header)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("not version 1 of NumPy's format; save it again with numpy.save")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype not in (np.uint8, np.uint16) or by_columns or len(shape) != 3:
        raise ValueError(
            f"holds {dtype} of shape {shape}, not uint8 or uint16 of height x width x channels, row by row"
        )
    return _checked(*shape), dtype


def _encode_png(pixels: np.ndarray) -> bytes:
    """Encode as PNG with the filter "up" on every row: 5 % larger than Pillow's, decoded in half the time."""
    height, width, channels = pixels.shape
    depth, color = 8 * pixels.itemsize, {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = pixels.reshape(height, -1)
    if depth == 16:
        rows = rows.astype(">u2").view(np.uint8)
    body = np.full((height, 1 + rows.shape[1]), 2, np.uint8)
    body[0, 1:], body[1:, 1:] = rows[0], rows[1:] - rows[:-1]
    packer = zlib.compressobj(6, strategy=zlib.Z_FILTERED)
    content = packer.compress(body.tobytes()) + packer.flush()
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)),
        (b"IDAT", content),
        (b"IEND", b""),
    ]
    framed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def _checked(height: int, width: int, channels: int) -> tuple[int, int, int]:
    if not (min(height, width) > 0 and height * width <= MAX_PIXELS and 0 < channels <= MOST_CHANNELS):
        raise ValueError(
            f"{width}x{height} pixels of {channels} channels are empty or above the limit of {MAX_PIXELS} pixels"
        )
    return height, width, channels


def _decode_jpeg(data: bytes | memoryview) -> np.ndarray | None:
    """Decode an upright 8-bit colour JPEG by torchvision: the pixels of Pillow in less time. None for other files."""
    from torchvision.io import decode_jpeg  # takes a second to import

    if data[-2:] != b"\xff\xd9" or not _is_plain_jpeg(data):  # torchvision decodes the zeros after a cut as pixels
        return None
    try:
        planes = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    except RuntimeError:
        return None
    return planes.permute(1, 2, 0).numpy()


def _is_plain_jpeg(data: bytes | memoryview) -> bool:
    """Whether the header (ITU-T T.81, annex B) has 8 bits, three channels, and no Exif or XMP with an orientation.

    Pillow could check the same, in a tenth of the decoding time.
    """
    place = 2
    frames: list[tuple[int, int] | None] = []
    while place + 10 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == START_OF_SCAN:
            return frames == [(8, 3)]
        if marker in JPEG_FRAMES:
            depth, height, width, channels = struct.unpack_from(">BHHB", data, place + 4)
            frames.append((depth, channels) if 0 < height * width <= MAX_PIXELS else None)
        elif marker not in PLAIN_SEGMENTS or length < 2:
            return False
        place += 2 + length
    return False


DECODERS: dict[bytes, Callable[[bytes | memoryview], np.ndarray | None]] = {
    NPY_MAGIC: _decode_npy,
    b"\xff\xd8\xff": _decode_jpeg,
}
