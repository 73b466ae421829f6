"""ICC profiles equivalent to the color statements of PNG, AVIF, TIFF and EXIF."""

import struct
from collections.abc import Mapping, Sequence

import numpy as np

D65 = 0.3127, 0.3290
D50 = 0.9642, 1.0, 0.8249  # XYZ of the profile connection space
SRGB = (0.64, 0.33), (0.30, 0.60), (0.15, 0.06)
ADOBE_RGB = (0.64, 0.33), (0.21, 0.71), (0.15, 0.06)
PRIMARIES = {  # ITU-T H.273, table 2: x and y of red, green, blue and white
    1: (*SRGB, D65),
    2: (*SRGB, D65),  # not specified
    4: ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), (0.310, 0.316)),
    5: ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), D65),
    6: ((0.63, 0.34), (0.31, 0.595), (0.155, 0.07), D65),
    7: ((0.63, 0.34), (0.31, 0.595), (0.155, 0.07), D65),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), D65),
    11: ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), (0.314, 0.351)),
    12: ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), D65),
    22: ((0.63, 0.34), (0.295, 0.605), (0.155, 0.077), D65),
}
SRGB_CURVE = 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045
BT709_CURVE = 1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081
CURVES: dict[int, Sequence[float]] = dict.fromkeys((1, 6, 14, 15), BT709_CURVE)  # H.273, table 3
CURVES |= {2: SRGB_CURVE, 4: (2.2,), 5: (2.8,), 8: (1.0,), 13: SRGB_CURVE}
HDR = {16: "PQ", 18: "HLG"}
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

Chunks = Sequence[tuple[bytes, bytes]]
Curve = Sequence[float] | np.ndarray
"""A gamma, the parameters g, a, b, c, d of a parametric curve of type 3 (ICC.1:2010, 10.16), or a uint16 table [n] of
linear light."""


def icc_of_chunks(chunks: Chunks, *, gray: bool) -> bytes | None:
    """Make the profile for the PNG chunks cICP, sRGB, gAMA and cHRM, in this precedence (PNG, third edition, 4.3).

    Returns:
        None for sRGB, which readers assume for files without a statement.

    Raises:
        ValueError: the colors are HDR or have an unknown code.
    """
    given = dict(chunks)
    if b"cICP" in given:
        primaries, transfer, matrix, full_range = given[b"cICP"][:4]
        name = HDR.get(transfer)
        if name or matrix or not full_range or primaries not in PRIMARIES or transfer not in CURVES:
            code = "-".join(map(str, given[b"cICP"][:4]))
            raise ValueError(
                f"the colors are {f'HDR ({name})' if name else 'of an unknown kind'}, code {code} of H.273"
            )
        if primaries in (1, 2) and transfer in (2, 13):
            return None
        return make_icc(PRIMARIES[primaries][:3], PRIMARIES[primaries][3], CURVES[transfer], gray=gray)
    if b"sRGB" in given or not {b"gAMA", b"cHRM"} & given.keys():
        return None
    gamma = 100_000 / struct.unpack(">I", given[b"gAMA"])[0] if b"gAMA" in given else None
    places = [value / 100_000 for value in struct.unpack(">8I", given[b"cHRM"])] if b"cHRM" in given else []
    points = list(zip(places[::2], places[1::2], strict=True))
    white, primary = (points[0], points[1:]) if points else (D65, SRGB)
    return make_icc(primary, white, SRGB_CURVE if gamma is None else (gamma,), gray=gray)


def icc_of_tiff(tags: Mapping[int, object], *, gray: bool) -> bytes | None:
    """Make the profile for the tags WhitePoint, PrimaryChromaticities and TransferFunction (TIFF 6.0, section 20)."""
    white, primaries, curve = (tags.get(code) for code in (318, 319, 301))
    if white is None and primaries is None and curve is None:
        return None
    flat = [float(value) for value in primaries] if primaries is not None else []  # type: ignore[attr-defined]
    points = list(zip(flat[::2], flat[1::2], strict=True)) or SRGB
    table = (2.2,) if curve is None else np.asarray(curve, np.uint16).reshape(-1)
    return make_icc(points, tuple(white) if white is not None else D65, table, gray=gray)  # type: ignore[arg-type]


def adobe_rgb() -> bytes:
    """The profile for the EXIF interoperability index R03 (DCF 2.0)."""
    return make_icc(ADOBE_RGB, D65, (563 / 256,), gray=False)


def make_icc(primaries: Sequence[tuple[float, float]], white: Sequence[float], curve: Curve, *, gray: bool) -> bytes:
    """Make a display profile of version 4.3.

    Args:
        primaries: x and y of red, green and blue; unused for gray.
        white: x and y.
        curve: for all channels; a table may hold three curves one after another.
        gray: make a profile of one channel.
    """
    curves = _curves(curve)
    return _of_curves(curves[:1] if gray else curves, primaries, white)


def _of_curves(curves: Sequence[bytes], primaries: Sequence[tuple[float, float]], white: Sequence[float]) -> bytes:
    """Make a profile of gray or RGB from the tags of one or three curves."""
    tags = {b"desc": _text("Colors as stated by the image"), b"cprt": _text("CC0")}
    adapt = _adaptation(_xyz(white))
    tags |= {b"wtpt": _xyz_tag(D50), b"chad": b"sf32\0\0\0\0" + _fixed(adapt.ravel())}
    if len(curves) == 1:
        return _packed(b"GRAY", tags | {b"kTRC": curves[0]})
    columns = np.array([_xyz(point) for point in primaries]).T
    matrix = adapt @ columns @ np.diag(np.linalg.solve(columns, _xyz(white)))
    tags |= {name: _xyz_tag(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), matrix.T, strict=True)}
    return _packed(b"RGB ", tags | dict(zip((b"rTRC", b"gTRC", b"bTRC"), curves, strict=True)))


def rgb_of_gray(icc: bytes) -> bytes:
    """Make the RGB profile that shows equal channels as the gray profile shows its one channel.

    Raises:
        ValueError: the profile has no curve, only a table of colors, or is damaged.
    """
    for place in range(132, 132 + 12 * min(int.from_bytes(icc[128:132], "big"), 100), 12):
        if icc[place : place + 4] == b"kTRC":
            offset, size = struct.unpack_from(">II", icc, place + 4)
            return _of_curves([icc[offset : offset + size]] * 3, SRGB, D65)
    raise ValueError("the gray color profile has no curve")


def _xyz(point: Sequence[float]) -> np.ndarray:
    x, y = point
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _adaptation(white: np.ndarray) -> np.ndarray:
    """Matrix that adapts XYZ from a white point to D50 (Bradford)."""
    return np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ D50) / (BRADFORD @ white)) @ BRADFORD


def _curves(curve: Curve) -> list[bytes]:
    if isinstance(curve, np.ndarray):
        tables = np.split(curve, 3) if len(curve) not in (2**n for n in range(17)) else [curve] * 3
        return [b"curv\0\0\0\0" + struct.pack(">I", len(table)) + table.astype(">u2").tobytes() for table in tables]
    return [b"para\0\0\0\0" + struct.pack(">HH", 0 if len(curve) == 1 else 3, 0) + _fixed(curve)] * 3


def _fixed(values: Sequence[float] | np.ndarray) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(float(value) * 65536) for value in values))


def _xyz_tag(values: Sequence[float] | np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(values)


def _text(text: str) -> bytes:
    data = text.encode("utf-16-be")
    return b"mluc\0\0\0\0" + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(data), 28) + data


def _packed(space: bytes, tags: Mapping[bytes, bytes]) -> bytes:
    """Assemble a profile (ICC.1:2010, clause 7)."""
    place, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        table += struct.pack(">4sII", name, place + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", place + len(body), b"", 0x04300000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + _fixed(D50)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
