"""Metadata of images is preserved and stays correct."""

import struct
import sys
import types
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from sr.core.errors import UserError
from sr.images import ImageData, ImageError, Meta, jp2, list_images, read_image, write_image
from sr.images.formats import READ_FORMATS
from sr.images.xmp import clean
from tests.helpers.images import RGB, saved

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" dc:title="t"/></x:xmpmeta>'


def tagged() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x010E] = 6, "Maker", "A description"
    exif.get_ifd(0x8769).update({0x9003: "2020:01:02 03:04:05", 0xA002: 17, 0xA003: 12})
    exif.get_ifd(0x8825).update({1: "N", 2: (1.0, 2.0, 3.0)})
    return exif


def read_exif(path) -> tuple[dict, dict, dict, Image.Image]:
    image = Image.open(path)
    image.load()
    exif = image.getexif()
    return dict(exif), dict(exif.get_ifd(0x8769)), dict(exif.get_ifd(0x8825)), image


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_metadata_are_kept_if_the_format_can_hold_them(tmp_path, suffix, bits):
    source = saved(
        Image.fromarray(RGB),
        format="JPEG",
        exif=tagged(),
        dpi=(300, 300),
        xmp=XMP,
        icc_profile=b"icc",
        comment=b"a comment",
    )
    given = read_image(source)
    assert given.rgb.shape == (3, 17, 12), "rotated once"
    write_image(tmp_path / f"a.{suffix}", ImageData(given.rgb, bits=bits, icc=given.icc, meta=given.meta))
    main, camera, place, image = read_exif(tmp_path / f"a.{suffix}")
    assert image.size == (12, 17)
    assert main.get(0x0112, 1) == 1, "the orientation is applied to the pixels"
    assert b"tiff:Orientation" not in (given.meta.xmp or b"")
    assert (main[0x010F], main[0x010E]) == ("Maker", "A description")
    back = read_image(tmp_path / f"a.{suffix}")
    assert back.rgb.shape == (3, 17, 12), "not rotated again"
    assert back.icc == b"icc"
    assert back.meta.dpi == pytest.approx((300, 300), abs=0.1)
    assert back.meta.xmp == given.meta.xmp is not None
    if suffix != "tif":  # a TIFF keeps textual tags only
        assert camera == {0x9003: "2020:01:02 03:04:05"}, "without the size, which is different"
        assert place == {1: "N", 2: (1.0, 2.0, 3.0)}
    if suffix in ("png", "jpg"):
        assert dict(back.meta.text)["Comment"] == "a comment"


@pytest.mark.parametrize("bits", [8, 16])
def test_text_of_a_png(tmp_path, bits):
    info = PngInfo()
    info.add_text("Title", "plain")
    info.add_itxt("Author", "Zoë 東京")
    given = read_image(saved(Image.fromarray(RGB), format="PNG", pnginfo=info))
    write_image(tmp_path / "a.png", ImageData(given.rgb, bits=bits, meta=given.meta))
    assert dict(read_image(tmp_path / "a.png").meta.text) == {"Title": "plain", "Author": "Zoë 東京"}


def test_damaged_and_oversized_metadata_are_dropped(tmp_path):
    for tables in (b"Exif\0\0II*\0\xff\xff\xff\x7f" + b"\xff" * 40, b"\1" * 50):
        given = read_image(saved(Image.fromarray(RGB), format="PNG", exif=tables))
        assert torch.equal(given.rgb, read_image(saved(Image.fromarray(RGB), format="PNG")).rgb)
    large = Meta(exif=b"Exif\0\0" + b"\1" * 90_000, xmp=b"x" * 90_000, text=(("Comment", "y" * 90_000), ("é中", "z")))
    for suffix in ("jpg", "png", "webp", "tif", "bmp"):
        for bits in (8, 16):
            write_image(tmp_path / f"a.{suffix}", ImageData(given.rgb, bits=bits, meta=large))
            assert read_image(tmp_path / f"a.{suffix}").rgb.shape == given.rgb.shape


def test_cmyk_is_converted_to_srgb():
    plain = Image.fromarray(RGB).convert("CMYK")
    naive = read_image(saved(plain, format="TIFF"))
    assert torch.equal((naive.rgb * 255).round(), torch.from_numpy(np.asarray(plain.convert("RGB"))).permute(2, 0, 1))
    broken = read_image(saved(plain, format="TIFF", icc_profile=b"no profile"))
    assert torch.equal(broken.rgb, naive.rgb)
    assert broken.icc is None, "a CMYK profile does not describe sRGB"
    # Pillow includes no CMYK profile. An RGB profile does not fit and is ignored.
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert torch.equal(read_image(saved(plain, format="TIFF", icc_profile=srgb)).rgb, naive.rgb)


def test_the_cmyk_profile_is_used(monkeypatch):
    plain, seen = Image.fromarray(RGB).convert("CMYK"), []

    def converted(image, source, target, *, outputMode):
        seen.append((image.mode, source, outputMode))
        return Image.new(outputMode, image.size, (1, 2, 3))

    monkeypatch.setattr(ImageCms, "ImageCmsProfile", lambda file: file.read())
    monkeypatch.setattr(ImageCms, "profileToProfile", converted)
    made = read_image(saved(plain, format="TIFF", icc_profile=b"cmyk"))
    assert seen == [("CMYK", b"cmyk", "RGB")]
    assert (made.rgb[:, 0, 0] * 255).round().tolist() == [1, 2, 3]


@pytest.mark.parametrize("format", ["WEBP", "PNG", "GIF", "TIFF"])
def test_an_animation_is_refused_or_its_first_frame_is_read(format):
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    data = saved(frames[0], format=format, save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match=r"holds 2 (frames|pages); .* --first-frame"):
        read_image(data, first_frame=False)
    first = read_image(data, first_frame=True)
    assert np.abs(first.rgb.permute(1, 2, 0).numpy() * 255 - RGB).mean() < 60, "the other is 127 away"
    still = saved(frames[0], format=format)
    assert read_image(still, first_frame=False).rgb.shape == first.rgb.shape


def test_a_photo_with_a_preview_is_one_image():
    data = saved(Image.fromarray(RGB), format="MPO", save_all=True, append_images=[Image.fromarray(RGB[:6, :8])])
    assert read_image(data, first_frame=False).rgb.shape == (3, 12, 17)


@pytest.mark.parametrize(
    ("suffix", "held"), [("png", True), ("webp", True), ("tif", True), ("jpg", False), ("bmp", False)]
)
def test_alpha_is_kept_or_composited_on_white(tmp_path, suffix, held):
    clear = torch.zeros(1, 16, 16)
    clear[..., 8:] = 1
    write_image(tmp_path / f"a.{suffix}", ImageData(torch.zeros(3, 16, 16), clear), quality=100)
    back = read_image(tmp_path / f"a.{suffix}")
    assert (back.alpha is not None) == held
    assert back.rgb[..., 12:].max() < 0.02
    assert held or back.rgb[..., :4].min() > 0.98


RDF = b"""<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:GCamera="http://ns.google.com/photos/1.0/camera/"
 xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" xmlns:Container="http://ns.google.com/photos/1.0/container/"
 xmlns:Item="http://ns.google.com/photos/1.0/container/item/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmlns:exif="http://ns.adobe.com/exif/1.0/"
 GCamera:MotionPhoto="1" GCamera:MicroVideoOffset="3024" hdrgm:Version="1.0" xmpNote:HasExtendedXMP="AB12"
 dc:format="image/jpeg" xmp:Rating="5" exif:PixelXDimension="17">
<dc:title><rdf:Alt><rdf:li>T\xc3\xaatle &amp; more</rdf:li></rdf:Alt></dc:title>
<xmp:Thumbnails><rdf:Alt><rdf:li>/9j/4AAQ</rdf:li></rdf:Alt></xmp:Thumbnails>
<Container:Directory><rdf:Seq><rdf:li><Container:Item Item:Mime="video/mp4" Item:Length="3024"/></rdf:li></rdf:Seq>
</Container:Directory></rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


def test_xmp_references_to_missing_parts_are_removed(tmp_path):
    film = saved(Image.fromarray(RGB), format="JPEG", xmp=RDF) + b"\0\0\0\x18ftypmp42" + bytes(3000)
    write_image(tmp_path / "a.jpg", read_image(film))
    kept = read_image(tmp_path / "a.jpg").meta.xmp
    for lost in (b"MotionPhoto=", b"MicroVideo", b"hdrgm:V", b"3024", b"HasExtended", b"/9j/", b"PixelXDimension="):
        assert lost not in kept
    for there in (b"<?xpacket begin", b'dc:format="image/jpeg"', b'xmp:Rating="5"', "Têtle &amp; more".encode()):
        assert there in kept


def test_xmp_that_cannot_be_parsed_is_dropped():
    assert clean(XMP) == XMP, "nothing to clean"
    assert clean(RDF[:-100]) is None
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>'
    assert clean(RDF.replace(b"<x:xmpmeta", bomb + b"<x:xmpmeta")) is None


@pytest.mark.parametrize("alpha", [None, torch.rand(1, 12, 17).round()])
def test_a_lossless_webp_stays_lossless(tmp_path, alpha):
    values = torch.from_numpy(RGB.transpose(2, 0, 1) / 255.0).float()
    write_image(tmp_path / "a.webp", ImageData(values, alpha), quality=100)
    given = read_image(tmp_path / "a.webp")
    assert given.lossless
    write_image(tmp_path / "b.webp", given, quality=80)
    assert read_image(tmp_path / "b.webp").lossless
    write_image(tmp_path / "c.webp", ImageData(values), quality=80)
    assert not read_image(tmp_path / "c.webp").lossless


def test_all_readable_suffixes_are_listed(tmp_path):
    image, names = Image.fromarray(RGB), []
    for suffix, format in READ_FORMATS.items() - {(".jxl", "JXL")}:  # see test_images_jxl.py
        names.append(f"a{suffix}")
        image.convert("1" if suffix == ".pbm" else "L" if suffix == ".pgm" else "RGB").save(
            tmp_path / names[-1], format
        )
    assert [path.name for path in list_images(tmp_path)] == sorted(names)
    for name in names:
        assert read_image(tmp_path / name).rgb.shape == (3, 12, 17)


def test_sizes_beyond_the_limit_of_a_format(tmp_path):
    with pytest.raises(UserError, match=r"16384 pixels are more than the 16383 that webp can hold .* --format png"):
        write_image(tmp_path / "a.webp", ImageData(torch.zeros(3, 1, 16_384)))
    assert not list(tmp_path.iterdir())


def test_the_pixel_limit_can_be_set():
    data = saved(Image.fromarray(RGB), format="PNG")
    assert read_image(data, max_pixels=204).rgb.shape == (3, 12, 17)
    with pytest.raises(ImageError, match="17x12 pixels are more than the 203 allowed"):
        read_image(data, max_pixels=203)


@pytest.mark.parametrize("interlaced", [False, True])
def test_16_bit_gray_with_alpha(interlaced):
    """Written here by the letter of the PNG specification; Adam7 has its first pass of one pixel in eight."""
    values = np.random.default_rng(3).integers(0, 65536, (1, 1, 2) if interlaced else (5, 7, 2), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", *values.shape[1::-1], 16, 4, 0, 0, interlaced))]
    parts += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    framed = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    made = read_image(b"\x89PNG\r\n\x1a\n" + framed)
    assert (made.bits, made.gray) == (16, True)
    assert np.array_equal((made.rgb[0].double() * 65535).round().numpy(), values[..., 0])
    assert np.array_equal((made.alpha[0].double() * 65535).round().numpy(), values[..., 1])


def deep_jp2(pixels, bits):
    """A JPEG 2000 whose header states another number of bits: the values move by the difference of the midpoints."""
    data = bytearray(saved(Image.fromarray(pixels), format="JPEG2000", no_jp2=True))
    place = data.index(jp2.SIZ) + 42
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    data[place : place + 3 * channels : 3] = bytes([bits - 1] * channels)
    return bytes(data)


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_gray_jpeg_2000_of_any_depth_spans_the_range(bits):
    values = RGB[..., 0].astype(np.uint32) + 2 ** (bits - 1) - 128
    given = (read_image(deep_jp2(RGB[..., 0], bits)).rgb[0] * 65535).round().numpy()
    assert np.array_equal(given, (values * 65535 + (2**bits - 1) // 2) // (2**bits - 1))


def test_color_jpeg_2000_of_12_bits_is_refused_or_decoded_by_imagecodecs(monkeypatch):
    data = deep_jp2(RGB, 12)  # Pillow reads white as black
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(ImageError, match="is a JPEG 2000 of 12 bits in several channels, which needs imagecodecs; run"):
        read_image(data, name="a.jp2")
    white = types.SimpleNamespace(jpeg2k_decode=lambda data: np.full(RGB.shape, 4095, np.uint16))
    monkeypatch.setitem(sys.modules, "imagecodecs", white)
    given = read_image(data)
    assert (given.bits, given.rgb.min()) == (16, 1)
    with pytest.raises(ImageError, match="has 20 bits per channel"):
        read_image(deep_jp2(RGB, 20))
