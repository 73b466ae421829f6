"""Images that `sr shard` drops: by size, JPEG blocks, blur, and near-duplicates."""

import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from sr.cli import main
from sr.core.errors import UserError
from sr.data.make_shards import make_shards
from sr.data.quality import Limits, blockiness_of, near_duplicates, perceptual_hash, sharpness_of


def photo(name="coffee"):
    from skimage import data

    return Image.fromarray(getattr(data, name)())


def jpeg(image, quality):
    file = io.BytesIO()
    image.save(file, "jpeg", quality=quality)
    return Image.open(file)


def gray(image):
    return np.asarray(image.convert("L"))


def test_blocks_and_blur_are_measured():
    image = photo()
    values = [blockiness_of(gray(jpeg(image, quality))) for quality in (95, 50, 20, 10)]
    assert values == sorted(values)
    assert values[0] < 1.1 < 1.5 < values[-1]
    shifted = gray(jpeg(image, 10).crop((3, 5, 500, 390)))
    assert blockiness_of(shifted) > 1.5, "the grid may start anywhere"
    assert blockiness_of(np.zeros((40, 40), np.uint8)) == blockiness_of(np.zeros((4, 4), np.uint8)) == 1
    small = image.resize((image.width // 4, image.height // 4)).resize(image.size)
    assert sharpness_of(gray(small)) < 0.2 * sharpness_of(gray(image))
    assert sharpness_of(np.zeros((2, 2), np.uint8)) == 0


def test_near_duplicates_are_found_and_the_largest_is_kept():
    pytest.importorskip("imagehash")
    image, other = photo(), photo("astronaut")
    copies = [image.resize((300, 200)), image, jpeg(image, 30), other]
    hashes = [perceptual_hash(gray(copy)) for copy in copies]
    sizes = [copy.width * copy.height for copy in copies]
    assert near_duplicates(hashes, sizes, 4) == {0: 1, 2: 1}
    draw = np.random.default_rng(0)
    bases = [int(value) for value in draw.integers(0, 2**64, 50, np.uint64)]
    for most in (0, 1, 3, 6):
        hashes = [base ^ sum(1 << int(bit) for bit in draw.choice(64, flips, replace=False))
                  for base in bases for flips in (0, most, most + 1)]  # fmt: skip
        assert near_duplicates(hashes, [1] * len(hashes), most) == {3 * n + 1: 3 * n for n in range(50) if most} | (
            {} if most else {3 * n + 1: 3 * n for n in range(50)}
        )


@pytest.fixture
def folder(tmp_path):
    image, folder = photo(), tmp_path / "in"
    folder.mkdir()
    image.crop((0, 0, 300, 300)).save(folder / "a.png")
    jpeg(image.crop((0, 0, 300, 300)), 60).resize((200, 200)).save(folder / "b.png")
    photo("astronaut").crop((100, 0, 400, 300)).resize((60, 60)).resize((300, 300)).save(folder / "blurred.png")
    photo("astronaut").crop((0, 200, 300, 500)).save(folder / "blocks.jpg", quality=5)
    Image.new("RGB", (40, 300)).save(folder / "thin.png")
    Image.new("RGB", (900, 200)).save(folder / "wide.png")
    return folder


def test_dropped_images_are_reported_with_their_reason(folder, tmp_path, capsys):
    pytest.importorskip("imagehash")
    given = "--min-side 100 --max-side 800 --blockiness 1.4 --blur 40 --dedupe --size 96 --step 96 --workers 1"
    assert main(["shard", str(folder), str(tmp_path / "out"), *given.split()]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("16 samples in 1 shards")  # of a.png
    assert "5 files skipped" in err
    for words in (
        "1 with a side below 100 (", "thin.png: 40x300)", "1 with a side above 800 (", "wide.png: 900x200)",
        "1 with blockiness above 1.4 (", "1 with sharpness below 40 (", "1 near-duplicates (",
        f"b.png of {folder}/a.png",
    ):  # fmt: skip
        assert words in err
    assert main(["shard", str(folder), str(tmp_path / "json"), *given.split(), "--json"]) == 0
    others = json.loads(capsys.readouterr().out)["others"]
    assert others["near-duplicates"] == {"count": 1, "example": f"{folder}/b.png of {folder}/a.png"}


def test_limits_that_drop_everything_or_lack_a_package_are_refused(folder, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"all images are dropped \(6 files skipped: 6 with a side below 5000 .*relax"):
        make_shards(folder, tmp_path / "out", progress=False, limits=Limits(min_side=5000))
    monkeypatch.setitem(sys.modules, "imagehash", None)
    with pytest.raises(UserError, match="needs the package ImageHash"):
        make_shards(folder, tmp_path / "out", progress=False, limits=Limits(dedupe=4))
    assert not (tmp_path / "out").exists()
