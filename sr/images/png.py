"""Chunks of PNG files (third edition), and truncated files."""

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER_END = 33  # bytes of the signature and of IHDR
COLOR_CHUNKS = b"cICP", b"sRGB", b"gAMA", b"cHRM", b"mDCV", b"cLLI"
LENGTHS = {b"cICP": 4, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32, b"mDCV": 24, b"cLLI": 8, b"pHYs": 9}
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by color type
ADAM7 = (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)
"""Of each pass of interlacing: first row, first column, row step, column step."""

Chunk = tuple[bytes, bytes]
"""Type and data."""


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
    """Yield all chunks; the last one may be truncated."""
    place = len(SIGNATURE)
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        if not kind.isalpha():
            return
        yield kind, data[place + 8 : place + 8 + length]
        place += 12 + length


def head_chunks(data: bytes) -> dict[bytes, bytes]:
    """The chunks before the pixels, the last of each type."""
    found = {}
    for kind, content in read_chunks(data):
        if kind == b"IDAT":
            break
        found[kind] = content
    return found


def pack(chunks: Sequence[Chunk]) -> bytes:
    """Serialize chunks with their lengths and checksums."""
    return b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)


def transparent_color(data: bytes) -> np.ndarray | None:
    """The transparent color of a gray or RGB image (tRNS), as 1 or 3 stored samples, or None."""
    count = {0: 1, 2: 3}.get(header_of(data).kind, 0)
    content = head_chunks(data).get(b"tRNS", b"")
    return np.frombuffer(content, ">u2", count).astype(np.uint16) if count and len(content) >= 2 * count else None


def without_damaged_chunks(data: bytes) -> bytes:
    """Drop ancillary chunks, such as text, of a wrong checksum or length, as viewers do; else return `data`."""
    if not data.startswith(SIGNATURE):
        return data
    place, kept = len(SIGNATURE), [SIGNATURE]
    for kind, content in read_chunks(data):
        end = place + 12 + len(content)
        whole = data[end - 4 : end] == struct.pack(">I", zlib.crc32(kind + content))
        whole &= len(content) == LENGTHS.get(kind, len(content))
        if whole or not kind[:1].islower() or end > len(data):
            kept.append(data[place:end])
        place = end
    return data if sum(map(len, kept)) == place else b"".join([*kept, data[place:]])


def is_whole(data: bytes) -> bool:
    return any(kind == b"IEND" for kind, _ in read_chunks(data))


def complete(data: bytes) -> tuple[bytes, float]:
    """Fill the missing data of a truncated file with zeros.

    Returns:
        The file, and the share of its rows that are missing or incomplete.
    """
    header, before, pixels = header_of(data), [], []
    for kind, content in read_chunks(data.rstrip(b"\0")):  # preallocated files end in zeros
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
    """Of each pass: rows, bytes per row with the filter byte, first row and row step in the image."""
    bits = header.depth * SAMPLES[header.kind]
    made = []
    for first, left, down, across in ADAM7 if header.interlaced else ((0, 0, 1, 1),):
        rows, columns = len(range(first, header.height, down)), len(range(left, header.width, across))
        if rows and columns:
            made.append((rows, 1 + (columns * bits + 7) // 8, first, down))
    return made


def _inflate(data: bytes, most: int) -> bytes:
    """Decompress up to `most` bytes, to the end of the data or the first error."""
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
