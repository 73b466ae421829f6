"""Chunks of PNG (third edition): what Pillow does not give, and files that are cut short."""

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER_END = 33  # bytes of the signature and of IHDR
COLOR_CHUNKS = b"cICP", b"sRGB", b"gAMA", b"cHRM", b"mDCV", b"cLLI"
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
ADAM7 = (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)
"""Of each pass: first row, first column, distance of rows, distance of columns."""

Chunk = tuple[bytes, bytes]
"""Kind and data."""


class Header(NamedTuple):
    width: int
    height: int
    depth: int
    kind: int
    compression: int
    filters: int
    interlaced: int


def header_of(data: bytes) -> Header:
    return Header(*struct.unpack_from(">IIBBBBB", data, 16))


def read_chunks(data: bytes) -> Iterator[Chunk]:
    """All chunks, as far as the file goes. The last may be cut."""
    place = len(SIGNATURE)
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        if not kind.isalpha():
            return
        yield kind, data[place + 8 : place + 8 + length]
        place += 12 + length


def head_chunks(data: bytes) -> dict[bytes, bytes]:
    """The chunks before the pixels, one of each kind."""
    found = {}
    for kind, content in read_chunks(data):
        if kind == b"IDAT":
            break
        found[kind] = content
    return found


def pack(chunks: Sequence[Chunk]) -> bytes:
    """Chunks with their lengths and checksums."""
    return b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)


def transparent_color(data: bytes) -> np.ndarray | None:
    """Samples of the one colour that is transparent (tRNS), as stored: 1 for grey, 3 for RGB, None if there is none."""
    count = {0: 1, 2: 3}.get(header_of(data).kind, 0)
    content = head_chunks(data).get(b"tRNS", b"")
    return np.frombuffer(content, ">u2", count).astype(np.uint16) if count and len(content) >= 2 * count else None


def is_whole(data: bytes) -> bool:
    return any(kind == b"IEND" for kind, _ in read_chunks(data))


def complete(data: bytes) -> tuple[bytes, float]:
    """A file that was cut short, filled up with zeros, and the share of its rows that is missing or incomplete."""
    header, before, pixels = header_of(data), [], []
    for kind, content in read_chunks(data.rstrip(b"\0")):  # space that was set aside for a file is filled with zeros
        if kind == b"IDAT":
            pixels.append(content)
        elif not pixels:
            before.append((kind, content))
    passes = _passes(header)
    size = sum(rows * row_bytes for rows, row_bytes, _, _ in passes)
    body = _inflate(b"".join(pixels), size)
    missing = np.zeros(header.height, bool)
    place = 0
    for rows, row_bytes, first, step in passes:
        whole = min(max(len(body) - place, 0) // row_bytes, rows) if row_bytes else rows
        missing[first::step][whole:rows] = True
        place += rows * row_bytes
    filled = zlib.compress(body.ljust(size, b"\0"), 1)
    return SIGNATURE + pack([*before, (b"IDAT", filled), (b"IEND", b"")]), float(missing.mean())


def _passes(header: Header) -> list[tuple[int, int, int, int]]:
    """Of each pass: rows, bytes of a row with its filter, first row and distance of rows in the image."""
    bits = header.depth * SAMPLES[header.kind]
    made = []
    for first, left, down, across in ADAM7 if header.interlaced else ((0, 0, 1, 1),):
        rows, columns = len(range(first, header.height, down)), len(range(left, header.width, across))
        if rows and columns:
            made.append((rows, 1 + (columns * bits + 7) // 8, first, down))
    return made


def _inflate(data: bytes, most: int) -> bytes:
    """As many bytes as there are before the data end or are damaged."""
    unpack, made, total = zlib.decompressobj(), [], 0
    try:
        for first in range(0, len(data), 256):
            piece = data[first : first + 256]
            while piece and total < most:
                made.append(unpack.decompress(piece, most - total))
                total += len(made[-1])
                piece = unpack.unconsumed_tail
    except zlib.error:
        pass
    return b"".join(made)
