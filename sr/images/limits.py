"""Bounds on the size of images, checked before anything is decoded or made."""

MAX_PIXELS = 500_000_000


def check_size(width: int, height: int, max_pixels: int = MAX_PIXELS) -> None:
    """Raise ValueError if the image has no pixels or more than max_pixels."""
    if width < 1 or height < 1:
        raise ValueError(f"{width}x{height} pixels are no image")
    if width * height > max_pixels:
        raise ValueError(f"{width}x{height} pixels are more than the {max_pixels} allowed")
