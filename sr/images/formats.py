"""Which files are images: the one table of suffixes that scanners of folders, readers and writers share."""

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
"""Suffix -> the name of its format in Pillow. The content decides: a file is decoded by any of these, whatever its
suffix. Pillow knows more formats, and runs other programs for some of them (EPS)."""

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
"""Suffix -> format that is written."""

WRITE_SUFFIXES = tuple(WRITE_FORMATS)
