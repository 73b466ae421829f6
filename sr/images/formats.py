"""Suffixes and formats of image files, shared by folder listings, readers and writers."""

READ_FORMATS = {
    ".png": "PNG",
    ".apng": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".mpo": "JPEG",
    ".webp": "WEBP",
    ".avif": "AVIF",
    ".jxl": "JXL",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".dib": "DIB",
    ".gif": "GIF",
    ".qoi": "QOI",
    ".pbm": "PPM",
    ".pgm": "PPM",
    ".ppm": "PPM",
    ".pnm": "PPM",
    ".jp2": "JPEG2000",
    ".j2k": "JPEG2000",
    ".j2c": "JPEG2000",
    ".jpc": "JPEG2000",
    ".jpf": "JPEG2000",
    ".jpx": "JPEG2000",
}
"""Suffix -> name of its format in Pillow. The suffix decides which files are listed; the content decides how a file is
decoded. Other formats of Pillow are disabled, because some of them run external programs (EPS)."""

READ_SUFFIXES = tuple(READ_FORMATS)

WRITE_FORMATS = {
    ".png": "png",
    ".jpg": "jpg",
    ".jpeg": "jpg",
    ".jpe": "jpg",
    ".jfif": "jpg",
    ".webp": "webp",
    ".bmp": "bmp",
    ".tif": "tif",
    ".tiff": "tif",
}
"""Suffix -> format that is written for it."""

WRITE_SUFFIXES = tuple(WRITE_FORMATS)
