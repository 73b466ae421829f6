"""Find, read and write image files."""

from sr.images.formats import READ_SUFFIXES, WRITE_SUFFIXES
from sr.images.image import ImageData, ImageError, list_images
from sr.images.limits import MAX_PIXELS
from sr.images.meta import Meta
from sr.images.read import eight_bits, has_alpha, read_image, read_opaque, read_pixels, read_rgb, size_of, with_channels
from sr.images.write import encode_rgb, write_image, write_rgb

__all__ = [
    "MAX_PIXELS",
    "READ_SUFFIXES",
    "WRITE_SUFFIXES",
    "ImageData",
    "ImageError",
    "Meta",
    "eight_bits",
    "encode_rgb",
    "has_alpha",
    "list_images",
    "read_image",
    "read_opaque",
    "read_pixels",
    "read_rgb",
    "size_of",
    "with_channels",
    "write_image",
    "write_rgb",
]
