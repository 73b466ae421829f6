import contextlib
import io
import os
import re
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from sr.core.errors import UserError
from sr.images import (
    ImageData,
    ImageError,
    color_space,
    encode_rgb,
    list_images,
    read_image,
    read_pixels,
    read_rgb,
    size_of,
    with_channels,
    write_image,
    write_rgb,
)
from tests.helpers.images import RGB, saved

DEEP = np.random.default_rng(1).integers(0, 65536, (12, 17, 3), dtype=np.uint16)
ROUNDED = np.round(DEEP / 257.0).astype(np.uint8)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_round_trip_rgb(format):
    assert np.array_equal(read_rgb(saved(Image.fromarray(RGB), format=format)), RGB)


def test_shards_use_stronger_compression_than_outputs(tmp_path):
    waves = np.sin(np.arange(256) / 9)
    smooth = (120 + 100 * waves[:, None, None] * waves[:, None] + np.arange(3)).astype(np.uint8)
    write_rgb(tmp_path / "a.png", smooth)
    hard = encode_rgb(smooth, "png")
    assert len(hard) < (tmp_path / "a.png").stat().st_size < 2 * len(hard)
    assert np.array_equal(read_rgb(hard), smooth)


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "tif", "TIFF"])
def test_written_lossless_files_round_trip(tmp_path, suffix):
    write_rgb(tmp_path / f"ä b.{suffix}", RGB, quality=100)
    assert np.array_equal(read_rgb(tmp_path / f"ä b.{suffix}"), RGB)
    assert [path.name for path in tmp_path.iterdir()] == [f"ä b.{suffix}"]


def test_jpeg_error_depends_on_quality(tmp_path):
    smooth = np.tile(np.arange(0, 240, 15, dtype=np.uint8)[:, None, None], (1, 16, 3))
    write_rgb(tmp_path / "a.jpg", smooth, quality=95)
    write_rgb(tmp_path / "b.jpeg", RGB, quality=10)
    assert np.abs(read_rgb(tmp_path / "a.jpg").astype(int) - smooth).max() <= 4
    assert np.abs(read_rgb(tmp_path / "b.jpeg").astype(int) - RGB).mean() > 4


def test_gray_palette_alpha_bilevel_and_cmyk_become_rgb():
    gray = RGB[..., 0]
    assert np.array_equal(read_rgb(saved(Image.fromarray(gray), format="PNG")), gray[..., None].repeat(3, 2))
    paletted = Image.fromarray(RGB).quantize(16)
    assert np.array_equal(read_rgb(saved(paletted, format="PNG")), np.asarray(paletted.convert("RGB")))
    clear = np.dstack([RGB, gray])
    assert np.array_equal(read_rgb(saved(Image.fromarray(clear), format="PNG")), RGB)
    assert set(np.unique(read_rgb(saved(Image.fromarray(gray > 128), format="PNG")))) == {0, 255}
    assert read_rgb(saved(Image.fromarray(RGB).convert("CMYK"), format="JPEG")).shape == RGB.shape


GRAY = np.asarray(Image.fromarray(RGB).convert("L"))
FILES = {1: GRAY, 2: np.dstack([GRAY, RGB[..., 0]]), 3: RGB, 4: np.dstack([RGB, GRAY])}


@pytest.mark.parametrize("stored", FILES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_any_file_is_converted_to_the_requested_channels(stored, channels):
    pixels = read_pixels(saved(Image.fromarray(FILES[stored]), format="PNG"), channels=channels)
    assert pixels.shape == (12, 17, channels)
    colours = GRAY[..., None] if channels <= 2 else RGB if stored >= 3 else GRAY[..., None].repeat(3, 2)
    assert np.array_equal(pixels[..., : colours.shape[2]], colours)
    if channels in (2, 4):
        alpha = {2: RGB[..., 0], 4: GRAY}.get(stored, np.full_like(GRAY, 255))
        assert np.array_equal(pixels[..., -1], alpha)


def test_16_bits_are_rounded_before_conversion_to_gray(tmp_path):
    write_image(tmp_path / "deep.png", ImageData(torch.from_numpy(DEEP.transpose(2, 0, 1) / 65535.0).float(), bits=16))
    expected = np.asarray(Image.fromarray(ROUNDED).convert("L"))
    assert np.array_equal(read_pixels(tmp_path / "deep.png", channels=1)[..., 0], expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("layout", ["contig", "separate", "pages"])
def test_bands_of_a_tiff(dtype, layout):
    tifffile = pytest.importorskip("tifffile")
    bands = np.random.default_rng(2).integers(0, np.iinfo(dtype).max + 1, (12, 17, 5), dtype=dtype)
    stored = bands if layout == "contig" else bands.transpose(2, 0, 1)
    options = {"photometric": "minisblack", "compression": "zlib", "metadata": None}
    file = io.BytesIO()
    tifffile.imwrite(file, stored, **options, **({} if layout == "pages" else {"planarconfig": layout}))
    expected = bands if dtype == np.uint8 else np.round(bands / 257.0)
    pixels = read_pixels(file.getvalue(), channels=5)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, expected)
    with pytest.raises(ImageError, match=r"x: holds [0-9x]+ values, not height x width x 6"):
        read_pixels(file.getvalue(), channels=6, name="x")


def test_missing_channels_are_an_error():
    tifffile = pytest.importorskip("tifffile")
    with pytest.raises(ImageError, match="not a TIFF"):
        read_pixels(saved(Image.fromarray(RGB), format="PNG"), channels=5)
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((5, 8, 8), np.float32), photometric="minisblack", planarconfig="separate")
    with pytest.raises(ImageError, match="float32 pixels have no known white"):
        read_pixels(file.getvalue(), channels=5)
    with pytest.raises(ImageError):
        read_pixels(file.getvalue()[:150], channels=5)
    with pytest.raises(ValueError, match="has 5 channels, not 3"):
        with_channels(np.zeros((4, 4, 5), np.uint8), 3)


def test_exif_orientation_is_applied_once():
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        undo = {1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1], 5: RGB.swapaxes(0, 1)}
        undo |= {6: np.rot90(RGB, -1), 7: RGB[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(RGB)}
        for format in ("PNG", "TIFF"):
            data = saved(Image.fromarray(RGB), format=format, exif=exif)
            assert np.array_equal(read_rgb(data), undo[orientation])
            assert size_of(data) == undo[orientation].shape[:2]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_round_trip_and_are_rounded_not_truncated(tmp_path, suffix, channels):
    path = tmp_path / f"deep.{suffix}"
    rgb = torch.from_numpy(DEEP.transpose(2, 0, 1).astype(np.float32) / 65535)
    gray, alpha = channels <= 2, rgb[1:2] if channels in (2, 4) else None
    rgb = rgb[:1].repeat(3, 1, 1) if gray else rgb
    image = ImageData(rgb, alpha, gray=gray, bits=16, icc=b"profile")
    write_image(path, image)
    back = read_image(path)
    assert (back.bits, back.gray) == (16, gray)
    assert back.icc == b"profile" or (suffix, channels) == ("tif", 2)  # which tifffile reads, and no profile of it
    assert torch.equal(back.rgb, image.rgb)
    assert (back.alpha is None) == (alpha is None)
    assert alpha is None or torch.equal(back.alpha, alpha)
    assert np.array_equal(read_rgb(path), ROUNDED[..., :1].repeat(3, 2) if gray else ROUNDED)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_16_bit_tiff_of_another_writer(byteorder, compression):
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    tifffile.imwrite(file, DEEP, photometric="rgb", byteorder=byteorder, compression=compression)
    assert np.array_equal(read_rgb(file.getvalue()), ROUNDED)


def test_16_bit_png_matches_opencv(tmp_path):
    cv2 = pytest.importorskip("cv2")
    assert np.array_equal(read_rgb(cv2.imencode(".png", DEEP[..., ::-1])[1].tobytes()), ROUNDED)
    write_image(tmp_path / "a.png", ImageData(torch.from_numpy(DEEP.transpose(2, 0, 1) / 65535.0).float(), bits=16))
    assert np.array_equal(cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)[..., ::-1], DEEP)


@pytest.mark.parametrize("white", [1023, 65535])
def test_16_bit_ppm_and_pgm(white):
    values = (DEEP.astype(np.int64) * white // 65535).astype(np.uint16)
    expected = np.round(values * (65535 / white))
    color = read_image(b"P6\n# 3 4\n17 12\n%d\n" % white + values.astype(">u2").tobytes())
    assert color.bits == 16
    assert np.array_equal((color.rgb.permute(1, 2, 0).double() * 65535).round(), expected)
    gray = read_image(b"P5\n17 12\n%d\n" % white + values[..., 0].astype(">u2").tobytes())
    assert (gray.bits, gray.gray) == (16, True)
    assert np.abs((gray.rgb[0].double() * 65535).round().numpy() - expected[..., 0]).max() <= 1
    plain = b"P3 17 12 %d\n# note\n" % white + " ".join(map(str, values.ravel())).encode()
    assert torch.equal(read_image(plain).rgb, color.rgb)


def test_bmp_of_16_bits_per_pixel():
    """5, 6 and 5 bits for red, green and blue, which are not 16 bits per channel."""
    head = struct.pack("<IiiHHIIiiII3I", 40, 3, 1, 1, 16, 3, 0, 0, 0, 0, 0, 0xF800, 0x7E0, 0x1F)
    row = struct.pack("<3HH", 0xFFFF, 0xF800, 0x001F, 0)
    data = b"BM" + struct.pack("<IHHI", 14 + len(head) + len(row), 0, 0, 14 + len(head)) + head + row
    assert read_rgb(data).tolist() == [[[255, 255, 255], [255, 0, 0], [0, 0, 255]]]


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIF (HEIC)"),
        (b"8BPS\0\x01", "a Photoshop document"),
        (b'<?xml version="1.0"?>\n<!-- a -->\n<svg xmlns="">', "SVG"),
        (b"<svg>", "SVG"),
    ],
)
def test_what_pillow_does_not_read_is_named(head, name, tmp_path):
    (tmp_path / "a.png").write_bytes(head + bytes(100))
    for source in (tmp_path / "a.png", head + bytes(100)):
        with pytest.raises(ImageError, match=rf"is {re.escape(name)}, which is not read; convert it to PNG$"):
            read_image(source)


def test_reduced_bit_depth_is_noted():
    pillow = Image.fromarray(RGB)
    for options in ({"format": "AVIF"}, {"format": "JPEG2000"}, {"format": "PNG"}):
        assert read_image(saved(pillow, **options)).notes == ()
    data = saved(pillow, format="AVIF")
    at = data.index(b"av1C") + 6
    deep = data[:at] + bytes([data[at] | 0x40]) + data[at + 1 :]
    assert color_space.read_color(Image.open(io.BytesIO(data)), deep).notes == color_space.EIGHT_BITS


def test_8_bit_image_keeps_gray_alpha_and_profile(tmp_path):
    values = torch.from_numpy(RGB.transpose(2, 0, 1).astype(np.float32) / 255)
    gray = values[:1].repeat(3, 1, 1)
    write_image(tmp_path / "a.png", ImageData(gray, values[1:2], gray=True, icc=b"profile"))
    back = read_image(tmp_path / "a.png")
    assert back.gray
    assert back.bits == 8
    assert back.icc == b"profile"
    assert torch.equal(back.rgb, gray)
    assert torch.equal(back.alpha, values[1:2])
    write_image(tmp_path / "a.jpg", ImageData(gray, values[1:2], gray=True, bits=16))
    back = read_image(tmp_path / "a.jpg")
    assert back.gray
    assert back.alpha is None
    assert back.bits == 8


def test_first_frame_of_an_animation():
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    data = saved(frames[0], format="WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert np.array_equal(read_rgb(data), RGB)


def test_unreadable_inputs_are_named_with_the_reason(tmp_path):
    whole = saved(Image.fromarray(RGB), format="PNG")
    for data in (b"", b"no image", whole[: len(whole) // 2], whole[:40]):
        with pytest.raises(ImageError, match=r"^x\.tar: key: .+; replace"):
            read_rgb(data, name="x.tar: key")
    with pytest.raises(ImageError, match="No such file"):
        read_rgb(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="float pixels"):
        read_rgb(saved(Image.fromarray(np.ones((4, 4), np.float32)), format="TIFF"))


def test_truncated_files_raise_image_error_or_decode():
    for format in ("PNG", "JPEG", "WEBP", "TIFF", "BMP"):
        whole = saved(Image.fromarray(RGB), format=format)
        for length in range(0, len(whole), max(1, len(whole) // 40)):
            with contextlib.suppress(ImageError):
                assert read_rgb(whole[:length]).shape == RGB.shape


def test_an_image_bomb_is_refused_before_decoding():
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    framed = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    bomb = b"\x89PNG\r\n\x1a\n" + framed + struct.pack(">I", 9) + b"IDAT" + bytes(9)
    with pytest.raises(ImageError, match="pixels"):
        read_rgb(bomb)


def test_image_error_can_be_pickled():
    import pickle

    error = pickle.loads(pickle.dumps(ImageError("a.png", "torn")))
    assert (error.name, error.reason, str(error)) == ("a.png", "torn", str(ImageError("a.png", "torn")))


def test_list_images_is_sorted_and_skips_hidden_and_other_files(tmp_path):
    for name in ("b/1.PNG", "a/2.jpeg", "a/.hidden.png", ".git/3.png", "a/notes.txt", "z.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert found == ["a/2.jpeg", "b/1.PNG", "z.webp"]


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_rgb(tmp_path / "a.png", RGB)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.png", b"old")]


def test_unknown_format_is_named(tmp_path):
    with pytest.raises(UserError, match="gif"):
        write_rgb(tmp_path / "a.gif", RGB)
