"""JPEG and PNG files that viewers show although they are truncated, padded or followed by other data."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sr.data.codecs import decode
from sr.images import ImageError, png, read_image, read_rgb, size_of
from sr.images.png import ADAM7
from tests.helpers.images import saved

SMALL = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
PHOTO = Image.fromarray(SMALL).resize((128, 96), Image.Resampling.BICUBIC)
JPEGS = {
    "baseline": saved(PHOTO, format="JPEG", quality=90),
    "progressive": saved(PHOTO, format="JPEG", quality=90, progressive=True),
    "grey": saved(PHOTO.convert("L"), format="JPEG", quality=90),
    "restarts": saved(PHOTO, format="JPEG", quality=90, restart_marker_rows=1),
}


@pytest.mark.parametrize("kind", JPEGS)
def test_jpegs_with_all_rows_are_complete(kind):
    data = JPEGS[kind]
    expected = read_rgb(data)
    film = data + b"\0\0\0\x18ftypmp42" + bytes(3000)
    for same in (data[:-2], data[:-1], data + b"GARBAGE" * 400, data + bytes(5000), data[:-2] + bytes(5000), film):
        assert np.array_equal(read_rgb(same), expected)
        assert read_image(same).missing_rows == 0


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("padding", [b"", bytes(5000)])
def test_truncated_jpegs(kind, padding):
    data = JPEGS[kind]
    expected = read_rgb(data)
    for left, least, most in ((len(data) - 40, 0.01, 0.3), (len(data) - 300, 0.1, 0.6), (len(data) // 2, 0.4, 1)):
        cut = data[:left] + padding
        with pytest.raises(ImageError, match=r"is truncated: \d+% of its rows are missing or incomplete"):
            read_rgb(cut)
        with pytest.raises(ImageError, match="is truncated"):
            decode(cut, channels=3, name="x")
        made = read_image(cut, partial=True)
        assert least < made.missing_rows <= most
        rows = round(96 * (1 - made.missing_rows))
        assert np.array_equal((made.rgb * 255).round().permute(1, 2, 0)[:rows], expected[:rows])


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_truncated_pngs(mode):
    data = saved(PHOTO.convert(mode), format="PNG")
    expected = read_rgb(data)
    for left in (len(data) - 12, len(data) - 13):
        assert np.array_equal(read_rgb(data[:left]), expected), "only the end is missing"
    half = data[: len(data) // 2]
    for cut in (half, half + bytes(500), half + bytes(50_000), data[:-200]):
        with pytest.raises(ImageError, match=r"is truncated: \d+% of its rows are missing or incomplete"):
            read_rgb(cut)
        made = read_image(cut, partial=True)
        rows = round(96 * (1 - made.missing_rows))
        assert 0 < rows < 96
        assert np.array_equal((made.rgb * 255).round().permute(1, 2, 0)[:rows], expected[:rows])


def interlaced(pixels, *, without=0):
    """Written as in the specification, without filters and without the last bytes."""
    body = b""
    for first, left, down, across in ADAM7:
        part = pixels[first::down, left::across]
        body += b"".join(b"\0" + row.tobytes() for row in part) if part.size else b""
    head = struct.pack(">IIBBBBB", *pixels.shape[1::-1], 8, 2, 0, 0, 1)
    content = zlib.compress(body[: len(body) - without], 0)
    return png.SIGNATURE + png.pack([(b"IHDR", head), (b"IDAT", content)])


def test_truncated_interlaced_pngs():
    assert np.array_equal(read_rgb(interlaced(SMALL)), SMALL)
    made = read_image(interlaced(SMALL, without=6 * 49 - 1), partial=True)
    assert made.missing_rows == 0.5, "every second row is in the last pass"
    assert np.array_equal((made.rgb * 255).round().permute(1, 2, 0)[::2], SMALL[::2])


def test_a_file_without_any_row_is_an_error():
    start = JPEGS["baseline"].index(b"\xff\xda") + 20
    for data in (JPEGS["baseline"][:300], JPEGS["baseline"][:start], saved(PHOTO, format="PNG")[:60]):
        with pytest.raises(ImageError):
            read_image(data, partial=True)


def test_a_truncated_bomb_is_refused_by_its_size():
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = png.SIGNATURE + png.pack([(b"IHDR", head), (b"IDAT", zlib.compress(bytes(200_000)))])
    with pytest.raises(ImageError, match="60000x60000 pixels are more than"):
        read_image(data, partial=True)


def test_metadata_with_a_wrong_checksum_are_dropped(tmp_path):
    info = PngInfo()
    info.add_text("Title", "hello")
    data = saved(PHOTO, format="PNG", pnginfo=info, dpi=(72, 72))
    damaged = data.replace(b"hello", b"hallo")
    (tmp_path / "a.png").write_bytes(damaged)
    made = read_image(damaged)
    assert np.array_equal((made.rgb * 255).round().permute(1, 2, 0), np.asarray(PHOTO))
    assert made.meta.text == ()
    assert made.meta.dpi == pytest.approx((72, 72), abs=0.1)
    assert size_of(tmp_path / "a.png") == size_of(damaged) == (96, 128)
    at = data.index(b"IHDR") + 4
    with pytest.raises(ImageError):
        read_image(data[:at] + b"\1" + data[at + 1 :])
