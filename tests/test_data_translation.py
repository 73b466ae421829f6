"""Pairs of two images and sets without pairs: read, resized, cropped, ordered, and put into shards."""

import json
import pickle
import tarfile
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from sr import cli
from sr.config import registry
from sr.config.registry import Table
from sr.core.errors import UserError
from sr.data import SOURCES, FolderSource, Mix, ShardSource, Unpaired
from sr.data.crops import Crops
from sr.data.loader import Loader
from sr.data.make_shards import make_shards
from sr.data.mix import sides_of
from sr.data.source import Sample, oriented, resized
from sr.images import ImageError, write_rgb
from tests.helpers.tiers import slow

TABLES = {"sources": Table(SOURCES, supplied=("channels",))}
SETTINGS = {"seed": 3, "scale": 1, "gt_size": 16, "degrade_size": 16, "flip": True, "rotate": True}


def made(part, channels=(3, 3)):
    """A source as the options make it."""
    assert registry.check(part, "sources", TABLES) == []
    return registry.make(part, "sources", TABLES, channels=channels)


def smooth(seed, height, width):
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def facades(tmp_path):
    """Six files of 40 x (36 | 36): b is the negative of a."""
    for number in range(6):
        a = smooth(number, 40, 36)
        write_rgb_in(tmp_path / "facades" / f"{number}.png", np.concatenate([a, 255 - a], axis=1))
    return tmp_path / "facades"


def write_rgb_in(path, pixels):
    path.parent.mkdir(exist_ok=True)
    write_rgb(path, pixels)


class Tagged:
    """Plain images of one value: 10 * shard + index + first; pairs have the lq 100 above."""

    def __init__(self, counts, *, first=0, paired=False, bad=(), side=20):
        self.counts, self.first, self.paired, self.bad, self.side = counts, first, paired, set(bad), side

    def read(self, shard, index):
        if (shard, index) in self.bad:
            raise ImageError(self.name(shard, index), "torn")
        pixels = np.full((self.side, self.side, 3), self.first + 10 * shard + index, np.uint8)
        return Sample(pixels, pixels + 100 if self.paired else None)

    def name(self, shard, index):
        return f"{self.first}/{shard}: {index}"


def unpaired(a, b):
    return Unpaired(a=lambda **_: a, b=lambda **_: b)


def values(images):
    return [int(image[0, 0, 0]) for image in images]


# ---- pairs -----------------------------------------------------------------------------------------------------------


def test_the_left_half_is_a_and_the_right_half_b(facades):
    source = made({"type": "side_by_side", "path": str(facades)})
    assert source.counts == [6]
    assert source.name(0, 4) == str(facades / "4.png")
    gt, lq = source.read(0, 4)
    assert np.array_equal(lq, smooth(4, 40, 36))
    assert np.array_equal(gt, 255 - lq)


def test_paired_folders_go_by_name(facades, tmp_path):
    for number in range(6):
        a = smooth(number, 40, 36)
        write_rgb_in(tmp_path / "a" / f"p{number}.png", a)
        write_rgb_in(tmp_path / "b" / f"p{number}.bmp", 255 - a)
    source = made({"type": "paired", "a": f"{tmp_path}/a", "b": f"{tmp_path}/b"})
    other = made({"type": "side_by_side", "path": str(facades)})
    for index in range(6):
        assert all(np.array_equal(x, y) for x, y in zip(source.read(0, index), other.read(0, index), strict=True))
    (tmp_path / "a" / "p3.png").unlink()
    with pytest.raises(UserError, match=r"p3\.bmp has no partner"):
        made({"type": "paired", "a": f"{tmp_path}/a", "b": f"{tmp_path}/b"})


def test_each_side_is_read_with_its_own_channels(facades, tmp_path):
    source = made({"type": "side_by_side", "path": str(facades)}, (1, 3))
    gt, lq = source.read(0, 0)
    assert (gt.shape, lq.shape) == ((40, 36, 3), (40, 36, 1))
    assert np.array_equal(lq[..., 0], np.asarray(Image.fromarray(smooth(0, 40, 36)).convert("L")))
    make_shards(facades, tmp_path / "shards", size=None, side_by_side=True, progress=False)
    folders = {"gt": str(facades), "lq": str(facades)}
    for part in ({"type": "shards", "path": str(tmp_path / "shards")}, {"type": "folder", **folders}):
        gt, lq = made(part, (4, 1)).read(0, 0)
        assert (gt.shape[2], lq.shape[2]) == (1, 4)
        assert (lq[..., 3] == 255).all()
    mix = {"type": "mix", "sources": [{"type": "folder", "gt": str(facades)}], "weights": [1]}
    both = made({"type": "unpaired", "a": mix, "b": {"type": "folder", "gt": str(facades)}}, (1, 2))
    assert [parts[0][0].read(0, 0).gt.shape[2] for parts in sides_of(both)] == [2, 1]


def test_bands_of_a_tiff_are_channels(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    bands = np.random.default_rng(0).integers(0, 65536, (20, 18, 6), dtype=np.uint16)
    (tmp_path / "a").mkdir()
    tifffile.imwrite(tmp_path / "a" / "x.tif", bands, photometric="minisblack", planarconfig="contig")
    write_rgb_in(tmp_path / "b" / "x.png", smooth(0, 20, 18))
    source = made({"type": "paired", "a": f"{tmp_path}/a", "b": f"{tmp_path}/b"}, (6, 3))
    gt, lq, _ = Crops(source, **SETTINGS, load_size=17).crop(0)
    assert (lq.shape, gt.shape) == ((6, 16, 16), (3, 16, 16))
    assert np.array_equal(source.read(0, 0).lq, bands)


def test_direction_exchanges_a_and_b(facades):
    source = made({"type": "side_by_side", "path": str(facades)})
    forth, back = (Crops(source, **SETTINGS, direction=way) for way in ("a_to_b", "b_to_a"))
    for position in range(12):
        one, two = forth.crop(position), back.crop(position)
        assert torch.equal(one.gt, two.lq)
        assert torch.equal(one.lq, two.gt)
    assert oriented(source.read(0, 0), "a_to_b").lq is not None
    with pytest.raises(ValueError, match="no partner"):
        oriented(Sample(smooth(0, 4, 4)), "b_to_a")
    with pytest.raises(UserError, match=r"no partner, which is the input for direction b_to_a\) .*replace or remove"):
        Crops(FolderSource(gt=str(facades)), **SETTINGS, direction="b_to_a").crop(0)


@pytest.mark.parametrize("load_size", [None, 16, 19, 70])
def test_pairs_stay_aligned_when_resized_cropped_flipped_and_turned(facades, load_size):
    crops = Crops(made({"type": "side_by_side", "path": str(facades)}), **SETTINGS, load_size=load_size)
    for position in range(24):
        gt, lq, bad = crops.crop(position)
        assert gt.shape == lq.shape == (3, 16, 16)
        assert not bad
        assert (255 - gt.int() - lq.int()).abs().max() <= 1  # bicubic rounds each by itself


def test_load_size_is_a_bicubic_resize_before_the_crop(facades):
    source = made({"type": "side_by_side", "path": str(facades)})
    still = SETTINGS | {"flip": False, "rotate": False}
    wholes = [
        np.asarray(Image.fromarray(smooth(n, 40, 36)).resize((19, 19), Image.Resampling.BICUBIC)) for n in range(6)
    ]
    windows = {
        whole[top : top + 16, left : left + 16].tobytes(): (top, left)
        for whole in wholes
        for top in range(4)
        for left in range(4)
    }
    crops = [Crops(source, **still, load_size=19).crop(position).lq for position in range(200)]
    corners = {windows[crop.numpy().transpose(1, 2, 0).tobytes()] for crop in crops}
    assert corners == {(top, left) for top in range(4) for left in range(4)}
    flipped = [Crops(source, **still | {"flip": True}, load_size=19).crop(position).lq for position in range(40)]
    kept = [torch.equal(a, b) for a, b in zip(crops, flipped, strict=False)]
    assert all(same or torch.equal(a, b.flip(2)) for a, b, same in zip(crops, flipped, kept, strict=False))
    assert 8 < sum(kept) < 32


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_channels_are_resized_each_by_itself(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (13, 9, channels), dtype=np.uint8)
    small = resized(pixels, 7)
    for channel in range(channels):
        alone = Image.fromarray(pixels[..., channel]).resize((7, 7), Image.Resampling.BICUBIC)
        assert np.array_equal(small[..., channel], np.asarray(alone))


def test_halves_that_differ_and_torn_files_are_replaced_and_counted(facades):
    write_rgb(facades / "1.png", smooth(9, 40, 71))
    whole = (facades / "4.png").read_bytes()
    (facades / "4.png").write_bytes(whole[: len(whole) // 2])
    batches = Loader(made({"type": "side_by_side", "path": str(facades)}), batch_size=6, **SETTINGS).batches()
    bad = sorted(next(batches).bad)
    assert len(bad) == 2
    assert bad[0] == f"{facades}/1.png: 71x40 does not part into two equal halves (replaced by {facades}/2.png)"
    assert bad[1].startswith(f"{facades}/4.png: ")
    assert bad[1].endswith(f"(replaced by {facades}/5.png)")


def test_translation_keeps_the_size(facades):
    source = {"type": "folder", "gt": str(facades)}
    four = SETTINGS | {"scale": 4}
    for part in ({"type": "edges", "of": source}, {"type": "unpaired", "a": source, "b": source}):
        with pytest.raises(UserError, match="scale is 4"):
            Crops(made(part), **four)
    for option in ({"direction": "b_to_a"}, {"load_size": 20}):
        with pytest.raises(UserError, match="scale is 4"):
            Crops(made(source), **four, **option)


# ---- unpaired sets ---------------------------------------------------------------------------------------------------


def test_each_side_has_its_own_order_and_its_own_epoch():
    crops = Crops(unpaired(Tagged([3, 2], first=100), Tagged([4, 3])), **SETTINGS)
    pairs = [crops.crop(position) for position in range(70)]
    a, b = values(pair.lq for pair in pairs), values(pair.gt for pair in pairs)
    for side, images in ((a, [100, 101, 102, 110, 111]), (b, [0, 1, 2, 3, 10, 11, 12])):
        epochs = [side[start : start + len(images)] for start in range(0, 70, len(images))]
        assert all(sorted(epoch) == images for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > len(epochs) // 2
    assert len(set(zip(a, b, strict=True))) > 25  # of 35: who meets whom changes


def test_equal_sets_are_not_walked_in_step_nor_cut_alike():
    crops = Crops(unpaired(Tagged([8]), Tagged([8])), **SETTINGS)
    pairs = [crops.crop(position) for position in range(32)]
    assert sum(torch.equal(pair.gt, pair.lq) for pair in pairs) < 12
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)

    class One(Tagged):
        def read(self, shard, index):
            return Sample(noise)

    pairs = [Crops(unpaired(One([1]), One([1])), **SETTINGS).crop(position) for position in range(10)]
    assert not any(torch.equal(pair.gt, pair.lq) for pair in pairs)


def test_of_pairs_each_side_takes_its_own_and_direction_turns_nothing():
    paired = Tagged([4], paired=True)
    for direction in ("a_to_b", "b_to_a"):
        crops = Crops(unpaired(paired, paired), **SETTINGS, direction=direction)
        pairs = [crops.crop(position) for position in range(8)]
        assert sorted(values(pair.lq for pair in pairs)) == sorted([100, 101, 102, 103] * 2)
        assert sorted(values(pair.gt for pair in pairs)) == sorted([0, 1, 2, 3] * 2)


def test_sides_may_be_mixes_and_degrade_size_is_for_degradations_only():
    a = Mix(sources=[Tagged([2]), Tagged([3], first=50)], weights=[3.0, 1.0])
    crops = Crops(unpaired(a, Tagged([5], first=200)), **SETTINGS | {"degrade_size": 20})
    pairs = [crops.crop(position) for position in range(40)]
    assert all(pair.lq.shape == pair.gt.shape == (3, 16, 16) for pair in pairs)
    assert sum(value >= 50 for value in values(pair.lq for pair in pairs)) == 10


def test_bad_samples_of_either_side_give_way_and_are_counted():
    source = unpaired(Tagged([5], first=100, bad=[(0, 3)]), Tagged([3], bad=[(0, 2)]))
    raw = next(Loader(source, batch_size=15, **SETTINGS).batches())
    assert sorted(raw.bad) == ["0/0: 2: torn (replaced by 0/0: 0)"] * 5 + ["100/0: 3: torn (replaced by 100/0: 4)"] * 3
    assert [group.rows for group in raw.groups] == [list(range(15))]
    with pytest.raises(UserError, match=r"none of 2 samples from 0/0: \d \(torn\).*replace or remove"):
        Crops(unpaired(Tagged([5]), Tagged([2], bad=[(0, 0), (0, 1)])), **SETTINGS).crop(0)


def test_unpaired_sets_stand_by_themselves_and_hold_something():
    inside = unpaired(Tagged([1]), Tagged([1]))
    for outer in (
        lambda: Mix(sources=[inside], weights=[1.0]),
        lambda: Crops(unpaired(inside, Tagged([1])), **SETTINGS),
    ):
        with pytest.raises(UserError, match="cannot stand inside"):
            outer()
    with pytest.raises(UserError, match="holds no images"):
        Crops(unpaired(Tagged([0]), Tagged([3])), **SETTINGS)


# ---- the same stream everywhere --------------------------------------------------------------------------------------

KINDS = {
    "side_by_side": (lambda pairs: pairs, (3, 3)),
    "unpaired": (lambda pairs: {"type": "unpaired", "a": pairs, "b": {"type": "folder", "gt": pairs["path"]}}, (1, 3)),
    "colorize": (lambda pairs: {"type": "colorize", "of": pairs}, (1, 2)),
    "edges": (lambda pairs: {"type": "edges", "of": pairs}, (3, 3)),
}


@pytest.mark.parametrize("kind", ["unpaired", "colorize", *slow(["side_by_side", "edges"])])
def test_workers_ranks_and_restarts_change_nothing(facades, kind):
    part, channels = KINDS[kind]

    def rows(count, consumed=0, **places):
        source = made(part({"type": "side_by_side", "path": str(facades)}), channels)
        batches = Loader(source, batch_size=4, load_size=20, **SETTINGS, **places).batches(consumed)
        groups = [group for raw in islice(batches, count) for group in raw.groups]
        return {p: (lq, gt) for g in groups for p, lq, gt in zip(g.positions, g.lq, g.gt, strict=True)}

    reference = rows(5)
    assert sorted(reference) == list(range(20))
    for places in ({"workers": 2}, {"world": 2, "rank": 0}, {"world": 2, "rank": 1}, {"consumed": 12, "workers": 1}):
        found = rows(2, **places)
        assert found
        assert all(torch.equal(x, y) for p in found for x, y in zip(found[p], reference[p], strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_spawned_worker_gets_the_same(facades, kind):
    part, channels = KINDS[kind]
    crops = Crops(made(part({"type": "side_by_side", "path": str(facades)}), channels), **SETTINGS)
    twin = pickle.loads(pickle.dumps(crops))
    assert torch.equal(crops.crop(7).lq, twin.crop(7).lq)


# ---- shards ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def photographs(tmp_path):
    """Two files of 64 x (48 | 48) and what is no pair."""
    folder = tmp_path / "wide"
    for number in range(2):
        a = np.random.default_rng(number).integers(0, 256, (64, 48, 3), dtype=np.uint8)
        write_rgb_in(folder / f"{number}.png", np.concatenate([a, 255 - a], axis=1))
    write_rgb(folder / "odd.png", smooth(1, 64, 95))
    write_rgb(folder / "thin.png", smooth(1, 64, 60))
    return folder


def test_halves_become_pairs_of_a_shard(photographs, tmp_path):
    report = make_shards(photographs, tmp_path / "out", size=None, side_by_side=True, progress=False)
    assert report.samples == 2
    assert [reason for _, reason in report.skipped] == [
        "95x64 does not part into two equal halves",
        "30x64 is smaller than 32 pixels",
    ]
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        assert sorted(tar.getnames())[:2] == ["000000_0_s000.gt.png", "000000_0_s000.lq.png"]
    shards, files = (
        ShardSource(path=str(tmp_path / "out")),
        made({"type": "side_by_side", "path": f"{photographs}/[01].png"}),
    )
    for index in range(2):
        assert all(np.array_equal(x, y) for x, y in zip(shards.read(0, index), files.read(0, index), strict=True))


def test_members_called_a_and_b_are_pairs(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for number, side in enumerate("ab"):
            write_rgb_in(tmp_path / side / "1.png", smooth(number, 40, 40))
            tar.add(tmp_path / side / "1.png", f"1.{side}.png")
    shard = made({"type": "shards", "path": f"{tmp_path}/x.tar"})
    files = made({"type": "paired", "a": f"{tmp_path}/a", "b": f"{tmp_path}/b"})
    assert all(np.array_equal(x, y) for x, y in zip(shard.read(0, 0), files.read(0, 0), strict=True))


def test_halves_are_cut_alike_where_a_size_is_given(photographs, tmp_path):
    make_shards(photographs, tmp_path / "out", size=40, step=16, side_by_side=True, progress=False)
    source = ShardSource(path=str(tmp_path / "out"))
    assert source.counts == [2 * 3 * 2]
    a = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    windows = [a[top : top + 40, left : left + 40] for top in (0, 16, 24) for left in (0, 8)]
    for index, window in enumerate(windows):
        gt, lq = source.read(0, index)
        assert np.array_equal(lq, window)
        assert np.array_equal(gt, 255 - window)


def test_the_verb_keeps_pairs_together(photographs, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["shard", str(photographs), str(out), "--side-by-side", "--workers", "1"]) == 0
    assert "2 samples in 1 shards" in capsys.readouterr().out
    assert ShardSource(path=str(out)).read(0, 0).gt.shape == (64, 48, 3)
    plan = json.loads((out / "plan.json").read_text())
    assert plan["side_by_side"]
    assert plan["size"] is None
    make_shards(photographs, tmp_path / "plain", size=32, step=32, progress=False)
    assert json.loads((tmp_path / "plain" / "plan.json").read_text())["side_by_side"] is False
    assert cli.main(["shard", str(photographs), str(tmp_path / "no"), "--side-by-side", "--size", "0"]) == 2
    assert "not a whole number of 32 or more" in capsys.readouterr().err
    with pytest.raises(UserError, match="remove either"):
        make_shards(photographs, tmp_path / "no", side_by_side=True, lq=photographs, scale=1, progress=False)
