"""JPEG 2000 (ISO 15444-1) of more than 8 bits, which Pillow decodes with wrong values: white becomes black."""

import numpy as np
from PIL import Image

from sr.images.tiff import full_range

SIZ = b"\xff\x4f\xff\x51"  # start of a codestream, and the marker of its size


def bits_of(data: bytes) -> int:
    """Most bits of a channel (ISO 15444-1, A.5.1)."""
    place = data.find(SIZ)
    count = int.from_bytes(data[place + 40 : place + 42], "big")
    depths = data[place + 42 : place + 42 + 3 * count : 3] if place >= 0 else b""
    return max(((depth & 127) + 1 for depth in depths), default=8)


def deep_pixels(image: Image.Image, data: bytes) -> np.ndarray | None:
    """Decode channels of 9 to 16 bits as uint16 [h, w, channels]; None for 8 bits.

    Pillow rounds several channels to 8 bits, where the highest values overflow to 0, so imagecodecs decodes them. It
    shifts the values of one channel to 16 bits, where white is less than 65535.

    Raises:
        ValueError: imagecodecs is not installed, or there are more than 16 bits.
    """
    bits = bits_of(data)
    if bits <= 8:
        return None
    if bits > 16:
        raise ValueError(f"has {bits} bits per channel, of which at most 16 are read; convert it to 16 bits")
    if image.mode == "I;16":
        values = np.asarray(image) >> (16 - bits)
    else:
        try:
            import imagecodecs
        except ImportError:
            reason = f"is a JPEG 2000 of {bits} bits in several channels, which needs imagecodecs"
            raise ValueError(f"{reason}; run: pip install imagecodecs") from None
        values = imagecodecs.jpeg2k_decode(data)
    return full_range(values, bits).reshape(image.height, image.width, -1)
