import json
import multiprocessing
import tarfile
import time

import numpy as np
import pytest
from PIL import Image

from sr.core.errors import UserError
from sr.data import ShardSource
from sr.data import make_shards as maker
from sr.data.make_shards import make_shards, windows
from sr.images import read_rgb, write_rgb

OPTIONS = {"size": 64, "step": 48, "per_shard": 5, "progress": False}


def noise(seed, height, width):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    images = {"a/one.png": noise(1, 100, 130), "a/on e.ü.v2.png": noise(2, 64, 64), "b/one.bmp": noise(3, 70, 40)}
    for name, image in images.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        write_rgb(tmp_path / "in" / name, image)
    return tmp_path / "in"


def everything(out):
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


@pytest.mark.parametrize(
    ("length", "expected"), [(64, [0]), (65, [0, 1]), (40, [0]), (112, [0, 48]), (113, [0, 48, 49])]
)
def test_windows_reach_the_border(length, expected):
    assert windows(length, 64, 48) == expected


def test_sub_images_are_cut_as_planned(folder, tmp_path):
    report = make_shards(folder, tmp_path / "out", **OPTIONS)
    assert report[:3] == (2 * 3 + 1 + 2, 2, [])
    source = ShardSource(path=str(tmp_path / "out"))
    assert source.counts == [5, 4]
    names = [source.name(s, i).split(": ")[1] for s, n in enumerate(source.counts) for i in range(n)]
    assert names[0] == "000000_on_e_v2_s000"
    assert names[1:7] == [f"000001_one_s{k:03d}" for k in range(6)]
    image = noise(1, 100, 130)
    cuts = [image[top : top + 64, left : left + 64] for top in (0, 36) for left in (0, 48, 66)]
    read = [source.read(*divmod(number, 5)).gt for number in range(9)]
    assert all(np.array_equal(a, b) for a, b in zip(cuts, read[1:7], strict=True))
    assert np.array_equal(read[8], noise(3, 70, 40)[6:])
    content = json.loads((tmp_path / "out" / "index.json").read_text())
    assert {row["name"]: row["samples"] for row in content["shards"]} == {"shard-000000.tar": 5, "shard-000001.tar": 4}


def test_webdataset_reads_ours(folder, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    make_shards(folder, tmp_path / "out", **OPTIONS)
    urls = [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert len(samples) == 9
    assert samples[1]["png"].shape == (64, 64, 3)
    assert np.array_equal(samples[1]["png"], noise(1, 100, 130)[:64, :64])


@pytest.mark.parametrize(("format", "tolerance"), [("jpg", 40), ("webp", 90)])
def test_other_formats(tmp_path, format, tolerance):
    smooth = np.tile(np.arange(64, dtype=np.uint8)[:, None, None] * 3, (1, 64, 3))
    write_rgb(tmp_path / "in.png", smooth)
    make_shards([tmp_path / "in.png"], tmp_path / "out", **OPTIONS, format=format)
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        assert tar.getnames() == [f"000000_in_s000.{format}"]
    back = ShardSource(path=str(tmp_path / "out")).read(0, 0).gt
    assert 0 <= np.abs(back.astype(int) - smooth).max() < tolerance


def test_pairs_are_cut_alike(tmp_path):
    (tmp_path / "lq").mkdir()
    (tmp_path / "gt").mkdir()
    lq = noise(5, 25, 40)
    write_rgb(tmp_path / "lq" / "p x4.png", lq)
    write_rgb(tmp_path / "gt" / "p.png", np.pad(lq.repeat(4, 0).repeat(4, 1), ((0, 3), (0, 1), (0, 0))))
    write_rgb(tmp_path / "gt" / "bad.png", noise(1, 100, 100))
    write_rgb(tmp_path / "lq" / "bad.png", noise(1, 10, 100))
    report = make_shards(tmp_path / "gt", tmp_path / "out", **OPTIONS, lq=tmp_path / "lq", scale=4)
    assert report.samples == 6
    assert [reason for _, reason in report.skipped] == ["lq is 100x10 and gt 100x100, not 4 times it"]
    source = ShardSource(path=str(tmp_path / "out"))
    pairs = [source.read(s, i) for s, count in enumerate(source.counts) for i in range(count)]
    assert all(pair.lq.shape == (16, 16, 3) for pair in pairs)
    assert all(np.array_equal(pair.gt, pair.lq.repeat(4, 0).repeat(4, 1)) for pair in pairs)


def test_what_cannot_be_used_is_listed_and_strict_makes_it_an_error(folder, tmp_path):
    whole = (folder / "a" / "one.png").read_bytes()
    (folder / "torn.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("not an image")
    write_rgb(folder / "tiny.png", noise(1, 31, 200))
    report = make_shards(folder, tmp_path / "out", **OPTIONS)
    assert report.samples == 9
    assert {name.rpartition("/")[2]: reason for name, reason in report.skipped} == {
        "text.jpg": "not an image in a known format",
        "tiny.png": "200x31 is smaller than 32 pixels",
        "torn.png": dict(report.skipped)[str(folder / "torn.png")],
    }
    assert make_shards(folder, tmp_path / "out", **OPTIONS) == report
    with pytest.raises(UserError, match=r"text\.jpg.*replace or remove"):
        make_shards(folder, tmp_path / "out", **OPTIONS, strict=True)
    (folder / "text.jpg").unlink()
    (folder / "tiny.png").unlink()
    with pytest.raises(UserError, match=r"torn\.png.*replace or remove"):
        make_shards(folder, tmp_path / "strict", **OPTIONS, strict=True)


def test_an_interrupted_run_makes_only_what_is_missing(folder, tmp_path, monkeypatch):
    make_shards(folder, tmp_path / "whole", **OPTIONS)
    out, written = tmp_path / "out", []

    def fails_at_the_second(job, write=maker._write_shard):
        written.append(job.tar.name)
        if len(written) == 2:
            raise KeyboardInterrupt
        write(job)

    monkeypatch.setattr(maker, "_write_shard", fails_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        make_shards(folder, out, **OPTIONS)
    assert not (out / "index.json").exists()
    (out / ".shard-000001.tar.abc.tmp").write_bytes(b"left by kill -9")
    make_shards(folder, out, **OPTIONS)
    assert written == ["shard-000000.tar", "shard-000001.tar", "shard-000001.tar"]
    assert everything(out) == everything(tmp_path / "whole")
    make_shards(folder, out, **OPTIONS)
    assert len(written) == 3


@pytest.mark.slow
def test_several_processes_make_the_same_files(folder, tmp_path):
    make_shards(folder, tmp_path / "one", **OPTIONS)
    make_shards(folder, tmp_path / "two", **OPTIONS, workers=2)
    assert everything(tmp_path / "one") == everything(tmp_path / "two")


def test_another_plan_is_not_mixed_in(folder, tmp_path):
    make_shards(folder, tmp_path / "out", **OPTIONS)
    with pytest.raises(UserError, match="choose another folder"):
        make_shards(folder, tmp_path / "out", **OPTIONS | {"step": 32})
    write_rgb(folder / "new.png", noise(7, 64, 64))
    with pytest.raises(UserError, match="choose another folder"):
        make_shards(folder, tmp_path / "out", **OPTIONS)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "x.tar").touch()
    with pytest.raises(UserError, match="another program"):
        make_shards(folder, tmp_path / "foreign", **OPTIONS)


def test_wrong_arguments_are_named(folder, tmp_path):
    wrong = [({"size": 16}, "size"), ({"lq": folder}, "--scale"), ({"lq": folder, "scale": 5}, "multiples")]
    for options, word in wrong:
        with pytest.raises(UserError, match=word):
            make_shards(folder, tmp_path / "out", **OPTIONS | options)
    with pytest.raises(UserError, match="there is no"):
        make_shards([tmp_path / "none.png"], tmp_path / "out", **OPTIONS)
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(UserError, match="1 images cannot be used"):
        make_shards([tmp_path / "text.png"], tmp_path / "out", **OPTIONS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="matches no images"):
        make_shards(tmp_path / "empty", tmp_path / "out", **OPTIONS)
    assert read_rgb(folder / "a" / "one.png").shape == (100, 130, 3)


def test_two_processes_that_fill_one_folder_take_turns(folder, tmp_path, monkeypatch, capfd):
    context, started = multiprocessing.get_context("fork"), multiprocessing.get_context("fork").Event()
    write = maker._write_shard

    def slow(job):
        started.set()
        time.sleep(0.5)
        write(job)

    monkeypatch.setattr(maker, "_write_shard", slow)
    reports = context.SimpleQueue()
    first = context.Process(target=lambda: reports.put(make_shards(folder, tmp_path / "out", **OPTIONS)))
    first.start()
    assert started.wait(30)
    monkeypatch.setattr(maker, "_write_shard", lambda job: pytest.fail("made twice"))
    assert make_shards(folder, tmp_path / "out", **OPTIONS) == reports.get()
    first.join()
    assert f"out is being filled with shards by process {first.pid} on host" in capfd.readouterr().err
    assert not (tmp_path / "out" / ".lock").exists()


@pytest.mark.parametrize("format", ["png", "webp", "npy"])
def test_transparency_is_stored_for_four_channels_and_reported_for_three(tmp_path, format):
    alpha = noise(1, 64, 64)[..., :1]
    pixels = np.concatenate([noise(0, 64, 64), alpha], axis=2)
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in/clear.png")
    Image.fromarray(np.maximum(pixels, [0, 0, 0, 255]).astype(np.uint8)).save(tmp_path / "in/opaque.png")
    plain = make_shards(tmp_path / "in", tmp_path / "3", format=format, **OPTIONS)
    assert plain.opaque == [str(tmp_path / "in/clear.png")]
    assert plain.notes == [f"1 images stored without their transparency (such as {plain.opaque[0]})"]
    full = make_shards(tmp_path / "in", tmp_path / "4", format=format, channels=(4, 4), **OPTIONS)
    assert (full.samples, full.notes) == (2, [])
    stored = ShardSource(path=str(tmp_path / "4"), channels=(4, 4)).read(0, 0).gt
    assert np.array_equal(stored[..., 3:], alpha)
    with pytest.raises(UserError, match="jpg cannot hold 4 channels; set the format to png"):
        make_shards(tmp_path / "in", tmp_path / "j", format="jpg", channels=(4, 4), **OPTIONS)
