"""The color space of a file is kept, or converted to an equivalent ICC profile."""

import io
import struct

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms

from sr.core.errors import UserError
from sr.images import ImageData, Meta, png, read_image, write_image
from sr.images.icc import ADOBE_RGB, D65, SRGB, SRGB_CURVE, icc_of_chunks, icc_of_tiff, make_icc
from sr.images.write import dropped
from tests.helpers.images import RGB, saved

GAMMA = (b"gAMA", struct.pack(">I", 100_000))
PRIMARIES = (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000))
P3 = (b"cICP", bytes([12, 13, 0, 1]))
PQ = (b"cICP", bytes([9, 16, 0, 1]))


def stating(*chunks, image=RGB):
    data = saved(Image.fromarray(image), format="PNG")
    return data[: png.HEADER_END] + png.pack(chunks) + data[png.HEADER_END :]


def in_srgb(pixels, icc):
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    return np.asarray(
        ImageCms.profileToProfile(Image.fromarray(pixels), profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    ).astype(int)


def srgb_of_linear(linear):
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clip(1e-9) ** (1 / 2.4) - 0.055) * 255


def test_profiles_match_their_parameters():
    assert np.array_equal(in_srgb(RGB, make_icc(SRGB, D65, SRGB_CURVE, gray=False)), RGB)
    linear = in_srgb(RGB, make_icc(SRGB, D65, (1.0,), gray=False))
    assert np.abs(linear - srgb_of_linear(RGB / 255)).max() < 0.6
    table = (np.linspace(0, 1, 256) ** 2.2 * 65535).round().astype(np.uint16)
    by_table, by_gamma = (in_srgb(RGB, make_icc(ADOBE_RGB, D65, curve, gray=False)) for curve in (table, (2.2,)))
    assert np.abs(by_table - by_gamma).max() <= 1
    primaries = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    assert in_srgb(primaries, make_icc(ADOBE_RGB, D65, (563 / 256,), gray=False)).tolist() == [
        [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]
    ]  # clipped to sRGB, whose red and blue it shares
    gray = ImageCms.ImageCmsProfile(io.BytesIO(make_icc(SRGB, D65, (2.2,), gray=True)))
    assert gray.profile.xcolor_space.strip() == "GRAY"


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("chunks", [[GAMMA], [GAMMA, PRIMARIES], [(b"sRGB", b"\0")], [P3], [PQ]])
def test_png_color_chunks_are_kept_in_png(tmp_path, chunks, bits):
    given = read_image(stating(*chunks))
    write_image(tmp_path / "a.png", ImageData(given.rgb, bits=bits, icc=given.icc, meta=given.meta))
    kept = png.head_chunks((tmp_path / "a.png").read_bytes())
    assert {kind: kept.get(kind) for kind, _ in chunks} == dict(chunks)
    assert b"iCCP" not in kept
    assert np.array_equal((read_image(tmp_path / "a.png").rgb * 255).round().permute(1, 2, 0), RGB)


@pytest.mark.parametrize("suffix", ["jpg", "webp", "tif"])
@pytest.mark.parametrize("chunks", [[GAMMA], [GAMMA, PRIMARIES], [PRIMARIES], [P3]])
def test_png_color_chunks_become_a_profile_in_other_formats(tmp_path, chunks, suffix):
    for image, gray in ((RGB, False), (RGB[..., 0], True)):
        given = read_image(stating(*chunks, image=image))
        write_image(tmp_path / f"a.{suffix}", given, quality=100)
        assert (
            read_image(tmp_path / f"a.{suffix}").icc
            == icc_of_chunks(chunks, gray=gray and suffix != "webp")
            is not None
        )


def test_srgb_needs_no_profile(tmp_path):
    for chunk in ((b"sRGB", b"\0"), (b"cICP", bytes([1, 13, 0, 1]))):
        write_image(tmp_path / "a.jpg", read_image(stating(chunk, GAMMA)))
        assert read_image(tmp_path / "a.jpg").icc is None


@pytest.mark.parametrize("suffix", ["jpg", "webp", "tif", "bmp"])
def test_hdr_is_refused_in_formats_without_color_codes(tmp_path, suffix):
    with pytest.raises(
        UserError, match=rf"HDR \(PQ\), code 9-16-0-1 .*, which {suffix} cannot hold; give --format png$"
    ):
        write_image(tmp_path / f"a.{suffix}", read_image(stating(PQ)))
    assert not list(tmp_path.iterdir())


def test_a_profile_has_precedence_over_chunks(tmp_path):
    profile = make_icc(ADOBE_RGB, D65, (2.2,), gray=False)
    write_image(tmp_path / "a.jpg", ImageData(torch.zeros(3, 8, 8), icc=profile, meta=Meta(color=(GAMMA,))))
    assert read_image(tmp_path / "a.jpg").icc == profile


def test_the_color_box_of_avif_becomes_a_chunk(tmp_path):
    data = saved(Image.fromarray(RGB), format="AVIF", quality=100)
    assert read_image(data).meta.color == ()
    at = data.index(b"colrnclx") + 8
    for codes, expected in (((9, 16), PQ[1]), ((12, 13), P3[1]), ((1, 13), None), ((2, 2), None)):
        given = read_image(data[:at] + struct.pack(">HH", *codes) + data[at + 4 :])
        assert dict(given.meta.color).get(b"cICP") == expected
    write_image(tmp_path / "a.png", read_image(data[:at] + struct.pack(">HH", 9, 16) + data[at + 4 :]))
    assert png.head_chunks((tmp_path / "a.png").read_bytes())[b"cICP"] == PQ[1]


def test_a_profile_in_avif_and_jpeg_2000():
    profile = make_icc(ADOBE_RGB, D65, (2.2,), gray=False)
    assert read_image(saved(Image.fromarray(RGB), format="AVIF", icc_profile=profile)).icc == profile
    data = saved(Image.fromarray(RGB), format="JPEG2000")
    at = data.index(b"colr") - 4
    length = int.from_bytes(data[at : at + 4], "big")
    box = struct.pack(">I4s3B", 11 + len(profile), b"colr", 2, 0, 0) + profile
    head = data.index(b"jp2h") - 4
    size = int.from_bytes(data[head : head + 4], "big") - length + len(box)
    data = data[:head] + struct.pack(">I", size) + data[head + 4 : at] + box + data[at + length :]
    assert read_image(data).icc == profile


def test_adobe_rgb_by_exif(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0xA001: 0xFFFF, 0xA005: {1: "R03"}})
    given = read_image(saved(Image.fromarray(RGB), format="JPEG", exif=exif))
    assert given.icc == make_icc(ADOBE_RGB, D65, (563 / 256,), gray=False)


def test_color_tags_of_a_tiff():
    tags = [(318, "2I", 2, (3127, 10000, 3290, 10000), True)]
    primaries = [value for point in ADOBE_RGB for x in point for value in (round(x * 100), 100)]
    tags += [(319, "2I", 6, primaries, True)]
    table = (np.linspace(0, 1, 256) * 65535).round().astype(np.uint16)
    file = io.BytesIO()
    tifffile.imwrite(file, RGB, photometric="rgb", metadata=None, extratags=[*tags, (301, "H", 256, table, True)])
    flat = [x for point in ADOBE_RGB for x in point]
    assert read_image(file.getvalue()).icc == icc_of_tiff({318: (0.3127, 0.329), 319: flat, 301: table}, gray=False)
    file = io.BytesIO()
    tifffile.imwrite(file, RGB, photometric="rgb", metadata=None)
    assert read_image(file.getvalue()).icc is None


@pytest.mark.parametrize(
    "tag",
    [
        (318, "2I", 2, (3127, 0, 3290, 10000), True),
        (318, "2I", 1, (3127, 10000), True),
        (319, "2I", 6, (1, 1) * 6, True),
        (301, "H", 5, (1, 2, 3, 4, 5), True),
    ],
)
def test_damaged_color_tags_of_a_tiff_cost_the_profile_alone(tag):
    file = io.BytesIO()
    tifffile.imwrite(file, RGB, photometric="rgb", metadata=None, extratags=[tag])
    image = read_image(file.getvalue())
    assert image.icc is None
    assert image.notes == ("its damaged color tags were dropped",)
    assert torch.equal((image.rgb * 255).round().to(torch.uint8), torch.from_numpy(RGB).permute(2, 0, 1))


@pytest.mark.parametrize("curve", [(1.8,), SRGB_CURVE, (np.linspace(0, 1, 256) ** 3 * 65535).astype(np.uint16)])
def test_a_gray_profile_becomes_one_of_rgb_in_webp(tmp_path, curve):
    gray = RGB[..., 0]
    profile = make_icc(SRGB, D65, curve, gray=True)
    write_image(tmp_path / "a.webp", read_image(saved(Image.fromarray(gray), format="PNG", icc_profile=profile)))
    written = read_image(tmp_path / "a.webp").icc
    assert written[16:20] == b"RGB "
    shown = in_srgb(np.repeat(gray[..., None], 3, 2), written)
    assert np.abs(shown - in_srgb(gray, profile)).max() <= 1
    with pytest.raises(UserError, match=r"a.webp: the gray color profile has no curve, which webp cannot hold; give"):
        write_image(
            tmp_path / "a.webp", ImageData(torch.zeros(3, 8, 8), gray=True, icc=profile.replace(b"kTRC", b"none"))
        )


def test_a_profile_that_bmp_cannot_hold_is_reported(tmp_path):
    for image in (
        ImageData(torch.zeros(3, 8, 8), icc=make_icc(ADOBE_RGB, D65, (2.2,), gray=False)),
        ImageData(torch.zeros(3, 8, 8), meta=Meta(color=(GAMMA,))),
    ):
        assert dropped(tmp_path / "a.bmp", image) == ("the color profile is lost: bmp has none",)
    assert not dropped(tmp_path / "a.bmp", ImageData(torch.zeros(3, 8, 8), meta=Meta(color=((b"sRGB", b"\0"),))))


@pytest.mark.parametrize(
    "chunk",
    [
        (b"gAMA", bytes(4)),
        (b"gAMA", struct.pack(">I", 1)),
        (b"cHRM", bytes(32)),
        (b"cHRM", struct.pack(">8I", *[31270, 32900] * 4)),
        (b"cICP", b"\1"),
    ],
)
def test_invalid_color_chunks_are_ignored(tmp_path, chunk):
    given = read_image(stating(chunk))
    assert given.meta.color == ()
    write_image(tmp_path / "a.jpg", given)
    assert read_image(tmp_path / "a.jpg").icc is None


@pytest.mark.parametrize("kind", [b"gAMA", b"cHRM", b"cICP", b"pHYs", b"sRGB"])
def test_chunks_of_a_wrong_length_cost_no_image(kind):
    assert read_image(stating((kind, bytes(3)))).meta.color == ()
