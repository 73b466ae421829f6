"""Every kind of TIFF that tifffile writes without further packages, against what was written."""

import importlib.util
import io
from itertools import product

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from sr.images import ImageError, read_image, read_pixels, read_rgb, size_of, tiff
from sr.images.tiff import read_tiff
from tests.helpers.tiers import slow

H, W = 21, 27
COMPRESSIONS = (None, "zlib", "lzma")


def ramps(channels, dtype):
    y, x = np.mgrid[:H, :W]
    planes = x / W, y / H, (x + y) / (H + W), 1 - x * y / (H * W)
    return (np.stack(planes, 2)[..., :channels] * np.iinfo(dtype).max).astype(dtype)


def written(pixels, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, metadata=None, **options)
    return file.getvalue()


def stored(pixels, planar):
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels if planar == "contig" else np.moveaxis(pixels, 2, 0)


def layouts():
    for compression, order, tile, planar in product(COMPRESSIONS, "<>", (None, (16, 16)), ("contig", "separate")):
        yield {"compression": compression, "byteorder": order, "tile": tile}, planar
        if compression:
            yield {"compression": compression, "byteorder": order, "tile": tile, "predictor": True}, planar


@pytest.mark.parametrize("dtype", [np.uint16, *slow([np.uint8])])
@pytest.mark.parametrize(
    ("channels", "photometric", "extra"),
    [
        (1, "minisblack", None),
        (1, "miniswhite", None),
        (2, "minisblack", "unassalpha"),
        (2, "minisblack", "assocalpha"),
        (3, "rgb", None),
        (4, "rgb", "unassalpha"),
        (4, "rgb", "assocalpha"),
        (4, "rgb", "unspecified"),
    ],
)
def test_gray_and_rgb_in_every_layout(dtype, channels, photometric, extra):
    top = np.iinfo(dtype).max
    expected = pixels = ramps(channels, dtype)
    if extra == "assocalpha":
        pixels = expected.copy()
        pixels[..., :-1] = np.round(expected[..., :-1] * (expected[..., -1:] / top))
    if photometric == "miniswhite":
        pixels = top - expected
    expected = expected[..., :3] if extra == "unspecified" else expected
    for options, planar in layouts():
        if channels == 1 and planar == "separate":
            continue
        if channels > 1:
            options = options | {"planarconfig": planar, "extrasamples": [extra] if extra else None}
        made = read_tiff(written(stored(pixels, planar), photometric=photometric, **options), max_pixels=10**6)
        assert made.dropped == (extra == "unspecified")
        if extra == "assocalpha":
            error = np.abs(made.pixels[..., :-1] - expected[..., :-1].astype(float)) * (expected[..., -1:] / top)
            assert error.max() <= 1, options
        else:
            assert np.array_equal(made.pixels, expected), options


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_bilevel(photometric, compression):
    bits = ramps(1, np.uint8)[..., 0] > 90
    made = read_rgb(written(bits, photometric=photometric, compression=compression))
    assert np.array_equal(made[..., 0] == 255, bits if photometric == "minisblack" else ~bits)
    assert set(np.unique(made)) == {0, 255}


@pytest.mark.parametrize("factor", [1, 256, 257])
def test_palettes_of_8_and_16_bits(factor):
    colormap = np.random.default_rng(0).integers(0, 256, (3, 256))
    indices = ramps(1, np.uint8)[..., 0]
    made = read_rgb(written(indices, photometric="palette", colormap=(colormap * factor).astype(np.uint16)))
    assert np.array_equal(made, colormap.T[indices])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_cmyk(dtype, planar):
    inks = ramps(4, dtype)
    made = read_rgb(written(stored(inks, planar), photometric="separated", planarconfig=planar))
    eight = inks if dtype == np.uint8 else np.round(inks / 257).astype(np.uint8)
    assert np.array_equal(made, np.asarray(Image.fromarray(eight, "CMYK").convert("RGB")))


def test_ycbcr():
    pixels = ramps(3, np.uint8)
    made = read_rgb(written(pixels, photometric="ycbcr"))
    assert np.array_equal(made, np.asarray(Image.fromarray(pixels, "YCbCr").convert("RGB")))


def test_ycbcr_jpeg_in_separate_planes(monkeypatch):
    """Decoded by Pillow even where tifffile could, which returns YCbCr for this layout."""
    planes = [Image.fromarray(plane) for plane in np.moveaxis(ramps(3, np.uint8), 2, 0)]
    file = io.BytesIO()
    planes[0].save(file, "TIFF", compression="jpeg")
    with tifffile.TiffFile(io.BytesIO(file.getvalue())) as given:
        page = given.pages[0].aspage()
        page.photometric, page.planarconfig, page.samplesperpixel = 6, 2, 3
        seen = []
        monkeypatch.setattr(tiff, "_tifffile_can", lambda page: True)
        monkeypatch.setattr(tiff, "_check_segments", lambda page: None)
        monkeypatch.setattr(tiff, "_by_pillow", lambda data, page: seen.append(page))
        tiff._decoded(file.getvalue(), page)
    assert len(seen) == 1


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "group4", "jpeg", "zstd"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "I;16", "RGB", "RGBA", "CMYK"])
def test_compressions_decoded_by_pillow(compression, mode):
    image = Image.fromarray(ramps(3, np.uint8))
    image = Image.fromarray(ramps(1, np.uint16)[..., 0]) if mode == "I;16" else image.convert(mode)
    file = io.BytesIO()
    try:
        image.save(file, "TIFF", compression=compression)
    except Exception:
        pytest.skip("not written")
    made = read_image(file.getvalue())
    if mode == "I;16":
        assert np.array_equal((made.rgb[0].numpy() * 65535).round(), ramps(1, np.uint16)[..., 0])
        return
    expected = np.asarray(image.convert("RGB"))
    error = np.abs((made.rgb.permute(1, 2, 0).numpy() * 255).round() - expected).max()
    assert error <= (60 if compression == "jpeg" else 0)
    assert (made.alpha is not None) == mode.endswith("A")


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("bits", [4, 12])
def test_other_bit_depths_are_scaled_to_the_full_range(bits, byteorder):
    """Packed as in the specification; Pillow returns 12-bit values unscaled."""
    values = np.arange(16).reshape(2, 8) * (2**bits - 1) // 15
    packed = np.packbits((values[..., None] >> np.arange(bits)[::-1]) & 1).tobytes()
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((2, 8), np.uint8), photometric="minisblack", metadata=None, byteorder=byteorder)
    data = bytearray(file.getvalue())
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as tiff:
        tags, order = tiff.pages[0].tags, tiff.byteorder
        put = {258: (bits, 2), 279: (len(packed), 4), 273: (len(data), 4)}
        for code, (value, _) in put.items():
            size = 2 if int(tags[code].dtype) == 3 else 4
            data[tags[code].valueoffset : tags[code].valueoffset + size] = value.to_bytes(
                size, "little" if order == "<" else "big"
            )
    if bits == 12 and byteorder == ">" and not importlib.util.find_spec("imagecodecs"):
        with pytest.raises(ValueError, match="NONE of 12 bits in this layout needs imagecodecs"):
            read_tiff(bytes(data) + packed, max_pixels=100)
        return
    made = read_tiff(bytes(data) + packed, max_pixels=100)
    top = 255 if bits == 4 else 65535
    assert np.array_equal(made.pixels[..., 0], np.round(values * top / (2**bits - 1)))


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_orientations(compression):
    pixels = ramps(3, np.uint16)
    turned = {1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.swapaxes(0, 1)}
    turned |= {6: np.rot90(pixels, -1), 7: pixels[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(pixels)}
    for value, expected in turned.items():
        data = written(pixels, photometric="rgb", compression=compression, extratags=[(274, "H", 1, value, True)])
        assert np.array_equal(read_tiff(data, max_pixels=10**6).pixels, expected)
        assert size_of(data) == expected.shape[:2]


def test_bigtiff_and_its_profile(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tifffile.imwrite(tmp_path / "a.tif", ramps(3, np.uint16), photometric="rgb", bigtiff=True, iccprofile=profile)
    made = read_image(tmp_path / "a.tif")
    assert made.bits == 16
    assert made.icc == profile
    assert size_of(tmp_path / "a.tif") == (H, W)


@pytest.mark.parametrize(
    ("dtype", "reason"),
    [
        ("int8", "signed pixels"),
        ("int16", "signed pixels"),
        ("int32", "signed pixels"),
        ("uint32", "32-bit pixels"),
        ("uint64", "64-bit pixels"),
        ("float32", "float pixels"),
        ("float64", "float pixels"),
        ("complex64", "complex pixels"),
    ],
)
def test_samples_without_a_known_white_level_are_refused(dtype, reason):
    for channels in (1, 3):
        data = written(ramps(channels, np.uint8).squeeze().astype(dtype))
        with pytest.raises(ImageError, match=f"{reason} have no known white level; convert it to 16 bits$"):
            read_rgb(data)


@pytest.mark.parametrize("photometric", ["cielab", "icclab", "cfa", "mask"])
def test_other_color_spaces_are_refused(photometric):
    channels = 3 if photometric.endswith("lab") else 1
    with pytest.raises(ImageError, match=r"pixels are not supported; convert it to RGB or gray$"):
        read_rgb(written(ramps(channels, np.uint8).squeeze(), photometric=photometric))


def test_extra_samples_of_unknown_meaning():
    pixels = ramps(4, np.uint16)
    data = written(pixels, photometric="rgb", extrasamples=["unspecified"])
    assert np.array_equal(read_pixels(data, channels=4), np.round(pixels / 257)), "as stored, if requested"
    made = read_image(data)
    assert made.alpha is None
    assert made.notes == ("1 extra channel(s) of unknown meaning were dropped",)
    with pytest.raises(ImageError, match="holds 2 bands of unknown meaning; convert it to RGB or gray"):
        read_image(written(pixels[..., :2], photometric="minisblack", planarconfig="contig"))


def test_reduced_copies_do_not_count_as_pages():
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as tiff:
        tiff.write(ramps(3, np.uint8)[::2, ::2], photometric="rgb", subfiletype=1)
        tiff.write(ramps(3, np.uint8), photometric="rgb")
    made = read_image(file.getvalue(), first_frame=False)
    assert made.rgb.shape == (3, H, W)


def test_oversized_strips_are_refused():
    data = bytearray(written(np.zeros((1024, 1024), np.uint8), compression="zlib", rowsperstrip=1024))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as tiff:
        tags = tiff.pages[0].tags
        for code, value in ((256, 8), (257, 8)):
            data[tags[code].valueoffset : tags[code].valueoffset + 2] = value.to_bytes(2, "little")
        at = tags[279].valueoffset
    data[at : at + 4] = (1 << 20).to_bytes(4, "little")
    with pytest.raises(ImageError, match="holds more data than its size allows"):
        read_rgb(bytes(data) + bytes(1 << 20))


def test_missing_strips_are_refused():
    for options in ({}, {"compression": "zlib"}):
        data = bytearray(written(ramps(3, np.uint8), photometric="rgb", rowsperstrip=8, **options))
        with tifffile.TiffFile(io.BytesIO(bytes(data))) as tiff:
            tags = tiff.pages[0].tags
        for code in (273, 279):
            size = 2 if int(tags[code].dtype) == 3 else 4
            data[tags[code].valueoffset + size : tags[code].valueoffset + 2 * size] = bytes(size)
        with pytest.raises(ImageError, match="lacks 1 of its 3 strips or tiles"):
            read_rgb(bytes(data))


def test_truncated_tiffs_are_refused(caplog):
    pixels = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
    for options in ({"rowsperstrip": 4}, {"tile": (16, 16)}, {"compression": "zlib", "rowsperstrip": 4}):
        data = written(pixels, photometric="rgb", **options)
        for length in range(0, len(data), 41):
            with pytest.raises(ImageError):
                read_rgb(data[:length])
    assert not caplog.records, "no warnings of tifffile"


def test_images_without_pixels_are_refused():
    data = bytearray(written(ramps(3, np.uint8), photometric="rgb"))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as tiff:
        at = tiff.pages[0].tags[256].valueoffset
    data[at : at + 2] = bytes(2)
    for way in (read_rgb, size_of):
        with pytest.raises(ImageError, match="pixels are no image"):
            way(bytes(data))


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_bands_are_oriented(planar):
    pixels = np.random.default_rng(0).integers(0, 256, (H, W, 5), dtype=np.uint8)
    data = written(
        stored(pixels, planar),
        photometric="minisblack",
        planarconfig=planar,
        extrasamples=["unspecified"] * 4,
        extratags=[(274, "H", 1, 6, True)],
    )
    assert np.array_equal(read_pixels(data, channels=5), np.rot90(pixels, -1))
    assert size_of(data) == (W, H)
