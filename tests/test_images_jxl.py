"""JPEG XL, which needs the optional package pylibjxl."""

import sys

import numpy as np
import pytest
from PIL import Image, ImageCms

from sr.data.codecs import decode, size_in
from sr.images import ImageError, list_images, read_image, size_of
from sr.images.color_space import EIGHT_BITS
from tests.helpers.images import RGB, saved

MAGIC = bytes.fromhex("ff0a")
DEEP = bytes.fromhex(  # 2 x 2 pixels of 16 bits
    "0000000c4a584c200d0a870a00000014667479706a786c20000000006a786c20000000096a786c6c0a000000256a786c63ff0a0810fc00458b"
    "080401003c004b188b15428a8c0c4cfcff17b3f77f"
)
ANIMATION = bytes.fromhex("ff0a41044d002026080401001c004b188b15820300080405003c004b188b15805dd4ff001892ae9af803")


def encoded(pixels: np.ndarray, **options) -> bytes:
    return pytest.importorskip("pylibjxl").encode(np.ascontiguousarray(pixels), lossless=True, **options)


def test_a_missing_decoder_is_named_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pylibjxl", None)
    (tmp_path / "a.jxl").write_bytes(MAGIC + bytes(20))
    assert list_images(tmp_path) == [tmp_path / "a.jxl"]
    for read in (read_image, size_of):
        with pytest.raises(ImageError, match=r"a.jxl.* not installed; run: pip install pylibjxl"):
            read(tmp_path / "a.jxl")


@pytest.mark.parametrize("bands", [1, 3, 4])
def test_pixels_and_size_are_read(bands):
    pixels = np.concatenate([RGB, RGB[..., :1]], axis=2)[..., :bands]
    data = encoded(pixels[..., 0] if bands == 1 else pixels)
    assert np.array_equal(decode(data, channels=bands, name="a"), pixels)
    assert size_in(data[:64], "a") == size_of(data) == RGB.shape[:2]


def test_the_orientation_is_applied_once():
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = saved(Image.fromarray(RGB), format="JPEG", exif=exif)
    data = pytest.importorskip("pylibjxl").jpeg_to_jxl(photo)
    assert size_of(data) == size_of(photo) == RGB.shape[1::-1]
    assert (read_image(data).rgb - read_image(photo).rgb).abs().max() < 0.03


def test_profile_depth_frames_and_damage():
    pytest.importorskip("pylibjxl")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert read_image(encoded(RGB, icc=profile)).icc[36:40] == b"acsp"
    assert read_image(encoded(RGB)).notes == ()
    assert read_image(DEEP).notes == EIGHT_BITS
    with pytest.raises(ImageError, match="is an animated JPEG XL"):
        read_image(ANIMATION)
    with pytest.raises(ImageError, match="Decoder error"):
        read_image(encoded(RGB)[:-40])
