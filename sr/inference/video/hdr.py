"""Static HDR metadata (SMPTE ST 2086, CTA-861.3), from the side data of frames to the options of encoders."""

import struct
from typing import Any, NamedTuple

DYNAMIC = {"DYNAMIC_HDR_PLUS": "HDR10+", "DOVI_METADATA": "Dolby Vision", "DOVI_RPU_BUFFER": "Dolby Vision"}


class Hdr(NamedTuple):
    """mastering: x and y of red, green, blue and white, and the lowest and highest luminance in cd/m2. light: MaxCLL
    and MaxFALL in cd/m2."""

    mastering: tuple[float, ...] | None = None
    light: tuple[int, int] | None = None


def read_hdr(frame: Any) -> Hdr:
    """From libavutil's AVMasteringDisplayMetadata and AVContentLightMetadata."""
    found = {data.type.name: bytes(data) for data in frame.side_data}
    mastering = light = None
    if len(data := found.get("MASTERING_DISPLAY_METADATA", b"")) >= 88:
        numbers = struct.unpack("=22i", data[:88])
        values = [a / b if b else 0.0 for a, b in zip(numbers[:20:2], numbers[1:20:2], strict=True)]
        mastering = tuple(values) if all(numbers[20:]) else None
    if len(data := found.get("CONTENT_LIGHT_LEVEL", b"")) >= 8:
        light = struct.unpack("=2I", data[:8])
    return Hdr(mastering, light)


def dynamic_hdr(frame: Any) -> str:
    """The name of dynamic HDR metadata in a frame; "" for none."""
    return next((DYNAMIC[data.type.name] for data in frame.side_data if data.type.name in DYNAMIC), "")


def encoder_options(hdr: Hdr, codec: str) -> dict[str, str]:
    """The options of libx264, libx265 or libsvtav1 that store the metadata in the stream."""
    option, display, levels = {
        "libx264": ("x264-params", "mastering-display", "cll"),
        "libx265": ("x265-params", "master-display", "max-cll"),
        "libsvtav1": ("svtav1-params", "mastering-display", "content-light"),
    }[codec]
    parts = []
    if hdr.mastering:
        red, green, blue, white = (hdr.mastering[n : n + 2] for n in (0, 2, 4, 6))
        low, high = hdr.mastering[8:]
        pairs = (("G", green), ("B", blue), ("R", red), ("WP", white), ("L", (high, low)))
        parts.append(f"{display}=" + "".join(f"{name}({_pair(name, values, codec)})" for name, values in pairs))
    if hdr.light:
        parts.append(f"{levels}={hdr.light[0]},{hdr.light[1]}")
    return {option: ":".join(parts)} if parts else {}


def _pair(name: str, values: tuple[float, ...], codec: str) -> str:
    """SVT-AV1 takes decimals; x264 and x265 take multiples of 0.00002, and of 0.0001 cd/m2."""
    if codec == "libsvtav1":
        return ",".join(f"{value:.5f}" for value in values)
    return ",".join(str(round(value * (10000 if name == "L" else 50000))) for value in values)
