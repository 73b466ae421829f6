"""Members of shards: the same pixels out of every layout, and no harm from hostile ones."""

import io
import struct
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image
from skimage import data

from sr.data import ShardSource, codecs
from sr.data.codecs import decode, encode
from sr.data.crops import Crops
from sr.data.make_shards import make_shards
from sr.images import ImageError, read_rgb, write_rgb
from tests.helpers.data import make_tar

SETTINGS = {"seed": 1, "scale": 4, "gt_size": 64, "degrade_size": 80, "flip": True, "rotate": True}


@pytest.fixture(scope="module")
def photo():
    return np.ascontiguousarray(data.coffee()[:201, :303])


def saved(image, **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, **options)
    return file.getvalue()


@pytest.mark.parametrize("format", ["png", "npy"])
@pytest.mark.parametrize("shape", [(201, 303), (1, 1), (1, 50), (33, 1)])
def test_lossless_formats_come_back(photo, format, shape):
    part = photo[: shape[0], : shape[1]]
    got = decode(encode(part, format), channels=3, name="x")
    assert got.dtype == np.uint8
    assert np.array_equal(got, part)
    assert np.array_equal(
        decode(encode(part, format), channels=1, name="x")[..., 0], np.asarray(Image.fromarray(part).convert("L"))
    )


def test_other_numbers_of_channels_come_back():
    for channels in (1, 2, 4, 7):
        pixels = np.random.default_rng(channels).integers(0, 256, (9, 11, channels), dtype=np.uint8)
        assert np.array_equal(decode(encode(pixels, "npy"), channels=channels, name="x"), pixels)


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"subsampling": 2, "progressive": True}, {"quality": 30}])
def test_the_fast_way_of_jpeg_gives_the_same_pixels(photo, options):
    file = saved(photo, format="JPEG", **options)
    assert codecs._decode_jpeg(file) is not None
    assert np.array_equal(decode(file, channels=3, name="x"), read_rgb(file))


def test_jpegs_that_are_turned_or_grey_go_the_other_way(photo):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, gray = saved(photo, format="JPEG", exif=exif), saved(photo[..., 0], format="JPEG")
    cmyk = io.BytesIO()
    Image.fromarray(photo).convert("CMYK").save(cmyk, format="JPEG")
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    tagged = saved(photo, format="JPEG", xmp=xmp + b"</x:xmpmeta>")
    for file in (turned, gray, cmyk.getvalue(), tagged):
        assert codecs._decode_jpeg(file) is None
        assert np.array_equal(decode(file, channels=3, name="x"), read_rgb(file))
    assert decode(turned, channels=3, name="x").shape == (303, 201, 3)


def test_a_jpeg_of_two_sizes_or_without_end_goes_the_other_way(photo):
    whole = saved(photo, format="JPEG")
    frame = whole.index(b"\xff\xc0")
    twice = whole[:frame] + whole[frame : frame + 19] + whole[frame:]
    endless = whole[:frame] + b"\xff\xfe\x00\x00" + whole[frame:]
    huge = whole[: frame + 5] + b"\xff\xff\xff\xff" + whole[frame + 9 :]
    for file in (twice, endless, huge, whole[: frame + 8]):
        assert codecs._decode_jpeg(file) is None
    with pytest.raises(ImageError, match="65535x65535"):
        decode(huge, channels=3, name="x")


def npy(array, version=(1, 0)):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=version, allow_pickle=True)
    return file.getvalue()


def hostile(photo):
    whole = {format: encode(photo, format) for format in ("npy", "jpg", "png")}
    huge = b"{'descr': '|u1', 'fortran_order': False, 'shape': (4000000000, 4000000000, 3), }\n"
    yield from (content[: len(content) // 2] for content in whole.values())
    yield from (content[:12] for content in whole.values())
    yield b"\x93NUMPY\x01\x00" + struct.pack("<H", len(huge)) + huge
    yield b"\x93NUMPY\x01\x00" + struct.pack("<H", 65535) + b"(" * 65535
    yield npy(np.array([[[{"an": "object"}]]], dtype=object))
    yield npy(photo.astype(np.float32))
    yield npy(np.asfortranarray(photo))
    yield npy(photo[..., 0])
    yield npy(photo, version=(2, 0))
    yield whole["npy"] + b"more"


def test_hostile_members_are_refused_by_name(photo):
    for number, content in enumerate(hostile(photo)):
        with pytest.raises(ImageError, match="the name"):
            pytest.fail(f"{number}: {decode(content, channels=3, name='the name').shape}")


def test_damaged_bytes_give_an_image_or_an_image_error(photo):
    draw = np.random.default_rng(0)
    for format in ("npy", "jpg", "png"):
        whole = np.frombuffer(encode(photo[:64, :64], format), np.uint8)
        for _ in range(150):
            torn = whole.copy()
            torn[draw.integers(0, min(len(torn), draw.choice([24, 200, 20000])), 3)] = draw.integers(0, 256, 3)
            with suppress(ImageError):
                assert decode(torn.tobytes(), channels=3, name="x").shape[2] == 3


def test_shards_of_any_format_train_alike(photo, tmp_path):
    write_rgb(tmp_path / "in.png", photo)
    crops = {}
    for format in ("png", "npy"):
        out = tmp_path / format
        report = make_shards([tmp_path / "in.png"], out, size=96, step=64, format=format, progress=False)
        crops[format] = Crops(ShardSource(path=str(out)), **SETTINGS)
    assert report.samples > 4
    for position in range(12):
        expected = crops["png"].crop(position).gt
        assert expected.shape == (3, 80, 80)
        assert crops["npy"].crop(position).gt.equal(expected)


def test_pairs_keep_their_format(photo, tmp_path):
    (tmp_path / "lq").mkdir()
    write_rgb(tmp_path / "in.png", photo[:200, :300])
    write_rgb(tmp_path / "lq" / "in.png", photo[:50, :75])
    make_shards(
        [tmp_path / "in.png"], tmp_path / "out", size=None, format="npy", lq=tmp_path / "lq", scale=4, progress=False
    )
    sample = ShardSource(path=str(tmp_path / "out")).read(0, 0)
    assert np.array_equal(sample.gt, photo[:200, :300])
    assert np.array_equal(sample.lq, photo[:50, :75])


def test_a_crop_of_bare_pixels_reads_only_its_rows(photo, tmp_path):
    """The member is a view of the file: what changes in the file behind it changes the view."""
    tar = make_tar(tmp_path / "x.tar", {"a.npy": encode(photo, "npy"), "b.png": encode(photo, "png")})
    gt = ShardSource(path=str(tar)).read(0, 0).gt
    assert np.array_equal(gt, photo)
    with open(tar, "r+b") as file:
        file.seek(tar.read_bytes().index(photo.tobytes()))
        file.write(b"\1\2\3")
    assert gt[0, 0].tolist() == [1, 2, 3]


def test_a_shard_cut_short_under_its_index_is_an_image_error(photo, tmp_path):
    tar = make_tar(tmp_path / "x.tar", {"a.npy": encode(photo, "npy")})
    source = ShardSource(path=str(tar))
    source.name(0, 0)
    with open(tar, "r+b") as file:
        file.truncate(1000)
    with pytest.raises(ImageError, match="shorter than its index"):
        source.read(0, 0)
