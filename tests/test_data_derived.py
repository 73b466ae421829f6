"""Pairs made out of photographs: grey and colour, edges and photograph."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import rgb2lab
from skimage.feature import canny

from sr.config import registry
from sr.config.registry import Table
from sr.core.errors import UserError
from sr.data import SOURCES, Edges, FolderSource, Mix
from sr.data.crops import Crops
from sr.data.derived import read_resized
from sr.data.loader import Loader
from sr.data.mix import parts_of
from sr.data.source import resized
from sr.images import read_rgb, write_rgb
from sr.images.color import lab_codes

TABLES = {"sources": Table(SOURCES, supplied=("channels",))}
SETTINGS = {"seed": 3, "scale": 1, "gt_size": 16, "degrade_size": 16, "flip": True, "rotate": True}
SPECKLED = np.random.default_rng(0).integers(0, 256, (23, 31), dtype=np.uint8)


def made(part, channels=(3, 3)):
    """A source as the options make it."""
    assert registry.check(part, "sources", TABLES) == []
    return registry.make(part, "sources", TABLES, channels=channels)


def test_colorize_lab_is_lightness_and_ab(photos):
    source = made({"type": "colorize", "of": {"type": "folder", "gt": str(photos)}}, (1, 2))
    photo = read_rgb(photos / "photo_2.png")
    gt, lq = source.read(0, 2)
    assert (lq.shape, gt.shape) == ((48, 56, 1), (48, 56, 2))
    lab = rgb2lab(photo)
    assert np.abs(lq / 2.55 - lab[..., :1]).max() <= 100 / 255 / 2 + 1e-3
    assert np.abs((gt / 127.5 - 1) * 110 - lab[..., 1:]).max() <= 110 / 255 + 1e-3


def test_colorize_rgb_is_grey_and_the_photograph(photos):
    source = made({"type": "colorize", "space": "rgb", "of": {"type": "folder", "gt": str(photos)}}, (1, 3))
    gt, lq = source.read(0, 1)
    assert np.array_equal(gt, read_rgb(photos / "photo_1.png"))
    assert np.array_equal(lq[..., 0], np.asarray(Image.open(photos / "photo_1.png").convert("L")))


@pytest.mark.parametrize(
    ("part", "channels"),
    [({"type": "colorize"}, (1, 2)), ({"type": "colorize", "space": "rgb"}, (1, 3)), ({"type": "edges"}, (1, 3))],
)
def test_grey_and_odd_photographs_will_do(tmp_path, part, channels):
    Image.fromarray(SPECKLED).save(tmp_path / "grey.png")
    gt, lq = made({**part, "of": {"type": "folder", "gt": str(tmp_path)}}, channels).read(0, 0)
    assert (lq.shape, gt.shape) == ((23, 31, 1), (23, 31, channels[1]))
    if channels[1] == 2:
        assert set(np.unique(gt)) <= {127, 128}  # no colour lies between the two


def test_training_splits_the_crop_of_the_photograph(photos):
    """Same position, same crop: what a source of photographs gives, put into codes after resize, crop and flip."""
    source = {"type": "folder", "gt": str(photos)}
    plain = Crops(made(source), **SETTINGS, load_size=19)
    lab = Crops(made({"type": "colorize", "of": source}, (1, 2)), **SETTINGS, load_size=19)
    back = Crops(made({"type": "colorize", "of": source}, (1, 2)), **SETTINGS, load_size=19, direction="b_to_a")
    for position in range(12):
        codes = torch.from_numpy(lab_codes(plain.crop(position).gt.numpy().transpose(1, 2, 0))).permute(2, 0, 1)
        crop, turned = lab.crop(position), back.crop(position)
        assert torch.equal(crop.lq, codes[:1])
        assert torch.equal(crop.gt, codes[1:])
        assert torch.equal(turned.gt, crop.lq)
        assert torch.equal(turned.lq, crop.gt)


def test_canny_is_that_of_the_luma_and_the_photograph_stays(photos):
    part = {"type": "edges", "of": {"type": "folder", "gt": str(photos)}, "sigma": 1.5, "low": 0.02, "high": 0.05}
    gt, lq = made(part, (1, 3)).read(0, 3)
    luma = np.asarray(Image.open(photos / "photo_3.png").convert("L")).astype(np.float32) / 255
    assert np.array_equal(gt, read_rgb(photos / "photo_3.png"))
    assert np.array_equal(lq[..., 0], canny(luma, 1.5, 0.02, 0.05) * 255)
    assert 0.01 < (lq > 0).mean() < 0.5
    assert np.array_equal(made(part, (3, 3)).read(0, 3).lq, lq.repeat(3, axis=2))


@pytest.mark.parametrize("sigma", [0, 1.0])
def test_sobel_is_bright_on_a_step_and_grows_with_it(tmp_path, sigma):
    for height in (40, 80):
        step = np.zeros((32, 32, 3), np.uint8)
        step[:, 16:] = height
        write_rgb(tmp_path / f"{height}.png", step)
    source = made({"type": "edges", "method": "sobel", "sigma": sigma, "of": {"type": "folder", "gt": str(tmp_path)}})
    low, high = (source.read(0, index).lq[..., 0].astype(int) for index in (0, 1))
    assert set(high.argmax(axis=1)) <= {15, 16}
    assert (high[:, :8] == 0).all()
    assert abs(high.max() - 2 * low.max()) <= 1
    assert high.max() > 10


def test_parts_that_cannot_be_are_named(photos):
    source = {"type": "folder", "gt": str(photos)}
    with pytest.raises(UserError, match="has 1 channel in a and 2 in b, not 3 and 3; set num_in_ch"):
        made({"type": "colorize", "of": source})
    with pytest.raises(UserError, match=r"low 0\.5 is above high 0\.2"):
        made({"type": "edges", "of": source, "low": 0.5})
    with pytest.raises(UserError, match="not from 6 channels"):
        made({"type": "edges", "of": source}, (1, 6))
    wrong = {"type": "colorize", "of": {"type": "folder", "path": "x"}, "space": "hsv"}
    assert len(registry.check(wrong, "sources", TABLES)) == 3


def test_derived_pairs_of_a_mix_and_of_bad_files(photos, tmp_path):
    (tmp_path / "more").mkdir()
    Image.fromarray(SPECKLED).save(tmp_path / "more" / "x.png")
    (photos / "photo_2.png").write_bytes(b"torn")
    mix = Mix(sources=[FolderSource(gt=str(photos)), FolderSource(gt=f"{tmp_path}/more")], weights=[3.0, 1.0])
    source = Edges(of=lambda **_: mix)
    assert [share for _, share in parts_of(source)] == [0.75, 0.25]
    raw = next(Loader(source, batch_size=8, **SETTINGS).batches())
    assert raw.bad == [f"{photos}/photo_2.png: not an image in a known format (replaced by {photos}/photo_3.png)"]
    assert raw.groups[0].lq.shape == (8, 1, 16, 16)


def test_for_validation_the_photograph_is_resized_not_its_edges(photos):
    source = made({"type": "edges", "of": {"type": "folder", "gt": str(photos)}, "low": 0.02, "high": 0.05}, (1, 3))
    gt, lq = read_resized(source, (0, 0), 48)
    assert (gt.shape, lq.shape) == ((48, 48, 3), (48, 48, 1))
    assert set(np.unique(lq)) == {0, 255}
    pair = read_resized(made({"type": "side_by_side", "path": str(photos)}), (0, 0), 16)
    assert np.array_equal(pair.lq, resized(read_rgb(photos / "photo_0.png")[:, :28], 16))
    assert read_resized(FolderSource(gt=str(photos)), (0, 0), 16).lq is None
