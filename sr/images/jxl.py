"""JPEG XL (ISO 18181) through the Pillow plug-in of pylibjxl, which is optional."""

import io
from pathlib import Path

from PIL import Image

MAGIC = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")  # of a codestream, and of a container


def is_jxl(head: bytes) -> bool:
    """head: the first 12 bytes of a file."""
    return head.startswith(MAGIC)


def open_jxl(file: str | Path | io.BytesIO) -> Image.Image:
    """Open a file by Pillow. Raises ValueError for an animation, and if the plug-in is not installed."""
    try:
        import pylibjxl
    except ImportError:
        raise ValueError("is JPEG XL, whose decoder is not installed; run: pip install pylibjxl") from None
    pylibjxl.register_pillow()
    image = Image.open(file, formats=["JXL"])
    if image.is_animated:  # type: ignore[attr-defined]
        image.close()
        raise ValueError("is an animated JPEG XL, of which the decoder would read the last frame")
    return image
