"""Data sets that others published: their member names, their counts, their compression, and a server that is down."""

import gzip
import json
import os
import shutil
import tarfile
from collections import namedtuple

import pytest

from sr.core.errors import UserError
from sr.data import Mix, ShardSource, index, scan
from sr.data.index import parse_counts
from sr.data.mix import Route
from tests.helpers.data import image, make_tar, png, shown

pytest_plugins = ["tests.helpers.shard_server"]


def test_members_with_dots_are_chosen_by_name(tmp_path):
    members = {"k.image.png": png(1), "k.depth.png": png(2), "k.small.PNG": png(3, 2), "k.json": b"{}", "k.txt": b""}
    make_tar(tmp_path / "x.tar", members)
    with pytest.raises(
        UserError, match=r"5 files skipped: .*1 members \.image\.png \(k\.image\.png\).*data\.source\.gt"
    ):
        ShardSource(path=str(tmp_path))
    assert shown(ShardSource(path=str(tmp_path), gt="image.png")) == [1]
    pair = ShardSource(path=str(tmp_path), gt="depth.png", lq="small.png")
    assert (shown(pair), int(pair.read(0, 0).lq[0, 0, 0])) == ([2], 3)
    assert shown(ShardSource(path=str(tmp_path), gt="image.png")) == [1], "each choice has an index of its own"
    assert ShardSource(path=str(tmp_path), gt="image.png").skipped.reasons["members .json"] == (1, "k.json")


def test_one_of_several_images_of_a_key_is_chosen(tmp_path):
    make_tar(tmp_path / "x.tar", {"a.png": png(1), "a.webp": png(2)})
    with pytest.raises(UserError, match=r"two gt images .* choose one by data\.source\.gt"):
        ShardSource(path=str(tmp_path))
    assert shown(ShardSource(path=str(tmp_path), gt="webp")) == [2]


def test_every_suffix_that_is_decoded_is_a_member(tmp_path):
    make_tar(tmp_path / "x.tar", {f"{n}.{s}": png(n) for n, s in enumerate(("jfif", "gif", "ppm", "avif", "jp2"))})
    assert shown(ShardSource(path=str(tmp_path))) == [0, 1, 2, 3, 4]


def test_skipped_members_are_counted_at_every_start(tmp_path):
    make_tar(tmp_path / "x.tar", {"a.png": png(1), "a.json": b"{}", ".b.png": png(2), "b.json": b"{}"})
    for _ in range(2):
        skipped = ShardSource(path=str(tmp_path)).skipped
        assert skipped.reasons == {
            "members .json": (2, "a.json"),
            "hidden members, or without suffix": (1, ".b.png"),
        }


def test_a_tar_with_countless_suffixes_names_some(tmp_path):
    make_tar(tmp_path / "x.tar", {"a.png": png(1)} | {f"{n}.s{n}": b"" for n in range(100)})
    reasons = ShardSource(path=str(tmp_path)).skipped.reasons
    assert len(reasons) == scan.MOST_REASONS + 1
    assert reasons["other members"][0] == 100 - scan.MOST_REASONS


def test_compressed_tars_are_refused_with_the_command_that_unpacks_them(tmp_path, monkeypatch):
    inner = make_tar(tmp_path / "a.tar", {"a.png": png(5)}).read_bytes()
    (tmp_path / "a.tar").unlink()
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.tar.gz").write_bytes(gzip.compress(inner))
    for path, command in (("set", r"gzip -d set/\*\.tar\.gz"), ("set/a.tar.gz", r"gzip -d set/a\.tar\.gz")):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UserError, match=f"{command}$"):
            ShardSource(path=path)
    with pytest.raises(UserError, match=r"zstd -d http://host/x\.tar\.zst \(on the server\)$"):
        ShardSource(path="http://host/x.tar.zst", cache=str(tmp_path / "cache"))
    os.system("gzip -d set/*.tar.gz")
    assert shown(ShardSource(path="set")) == [5]
    (tmp_path / "set" / "b.tgz").write_bytes(gzip.compress(inner))
    assert ShardSource(path="set").skipped.reasons == {"with suffix .tgz": (1, "set/b.tgz")}


def test_a_folder_of_shards_skips_what_is_no_file(tmp_path):
    make_tar(tmp_path / "a.tar", {"a.png": png(1)})
    os.mkfifo(tmp_path / "b.tar")
    (tmp_path / "c.tar").symlink_to("none")
    (tmp_path / "more").mkdir()
    source = ShardSource(path=str(tmp_path))
    assert set(source.skipped.reasons) == {"named pipes", "broken links", "folders"}
    with pytest.raises(UserError, match="is a named pipe"):
        ShardSource(path=str(tmp_path / "b.tar"))


# ---- counts ----------------------------------------------------------------------------------------------------------


def test_counts_of_other_publishers_are_understood():
    timm = {"splits": {"train": {"name": "train", "filenames": ["a-0.tar", "a-1.tar"], "shard_lengths": [3, 4]}}}
    wids = {"wids_version": 1, "shardlist": [{"url": "http://x/y/a-0.tar", "nsamples": 3, "filesize": 10240}]}
    assert parse_counts(json.dumps(timm).encode()) == {"a-0.tar": index.Entry(3, 0), "a-1.tar": index.Entry(4, 0)}
    assert parse_counts(json.dumps(wids).encode()) == {"a-0.tar": index.Entry(3, 10240)}
    for wrong in (b"[]", b'{"splits": {"a": 3}}', b'{"shardlist": [{}]}', b'{"splits": [{"filenames": 1}]}'):
        with pytest.raises(ValueError, match="Error"):
            parse_counts(wrong)


@pytest.mark.parametrize("kind", ["_info.json", "wids.json", "stats"])
def test_a_set_with_counts_is_not_fetched_before_the_first_step(server, at, kind):
    names = server.publish(indexed=False)
    files = {
        "_info.json": {"splits": {"train": {"filenames": names, "shard_lengths": [2, 2, 2]}}},
        "wids.json": {"shardlist": [{"url": name, "nsamples": 2} for name in names]},
    }
    if kind == "stats":
        for name in names:
            (server.folder / name.replace(".tar", "_stats.json")).write_text('{"count": 9, "successes": 2}')
    else:
        (server.folder / kind).write_text(json.dumps(files[kind]))
    source = at("t-{0..2}.tar")
    assert source.counts == [2, 2, 2]
    assert not any(server.gets()[name] for name in names)
    assert shown(source) == [0, 1, 2, 3, 4, 5]
    assert {name: server.gets()[name] for name in names} == dict.fromkeys(names, 1)


# ---- the window and the room in the cache ----------------------------------------------------------------------------


def test_the_window_is_an_option(tmp_path):
    for number in range(6):
        make_tar(tmp_path / f"{number}.tar", {f"{n}.png": png(number) for n in range(4)})
    source = ShardSource(path=str(tmp_path), window=2)
    for parts in ([(source, 1.0)], Mix(sources=[source], weights=[1.0]).parts):
        route = Route(parts, seed=1)
        runs = [{route(position).shard for position in range(start, start + 8)} for start in (0, 8, 16)]
        assert [len(shards) for shards in runs] == [2, 2, 2]
    shown(source)
    assert len(source._open) == 4


def test_room_is_checked_before_anything_is_fetched(server, at, monkeypatch):
    names = server.publish(indexed=False, size=64)
    size = (server.folder / "t-0.tar").stat().st_size
    with pytest.raises(UserError, match=r"two windows of 1 shards.*lower data\.source\.window"):
        at("t-{0..2}.tar", window=1, cache_gb=1.5 * size / 1e9)
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1.5 * size))
    with pytest.raises(UserError, match=r"cache has room for .* GB: make room"):
        at("t-{0..2}.tar", window=1)
    assert not any(server.gets()[name] for name in names)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2.5 * size))
    assert list(at("t-{0..2}.tar", window=1).counts) == [2, 2, 2]


# ---- a server that is down -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("path", ["t-{0..2}.tar", ""])
def test_cached_shards_are_read_while_the_server_is_down(server, tmp_path, path, indexed, capsys):
    if not indexed and not path:
        pytest.skip("HTTP lists no folders")
    server.publish(indexed=indexed)
    options = {"path": f"{server.url}/{path}", "cache": str(tmp_path / "cache")}
    assert shown(ShardSource(**options)) == [0, 1, 2, 3, 4, 5]
    server.down = True
    assert shown(ShardSource(**options)) == [0, 1, 2, 3, 4, 5]
    assert "that an earlier run saved" in capsys.readouterr().err
    with pytest.raises(UserError, match="tries"):
        ShardSource(**options | {"cache": str(tmp_path / "another")})


# ---- webdataset ------------------------------------------------------------------------------------------------------


def test_webdataset_reads_our_shards_and_we_read_its(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    from sr.data.make_shards import make_shards
    from sr.images import write_rgb

    (tmp_path / "in").mkdir()
    for number in range(3):
        write_rgb(tmp_path / "in" / f"photo.{number}.png", image(number, 64))
        write_rgb(tmp_path / "in" / f"other.{number}.png", image(10 + number, 64))
    make_shards(tmp_path / "in", tmp_path / "ours", size=32, step=32, per_shard=10, progress=False)
    ours = ShardSource(path=str(tmp_path / "ours"))
    tars = sorted(map(str, (tmp_path / "ours").glob("*.tar")))
    theirs = list(webdataset.WebDataset(tars, shardshuffle=False).decode("rgb8"))
    assert len(tars) == 3
    assert [int(sample["png"][0, 0, 0]) for sample in theirs] == shown(ours)
    assert [sample["__key__"] for sample in theirs] == [
        ours.name(shard, i).partition(": ")[2] for shard, count in enumerate(ours.counts) for i in range(count)
    ]
    (tmp_path / "written").mkdir()
    with webdataset.ShardWriter(str(tmp_path / "written" / "w-%04d.tar"), maxcount=2, verbose=0) as writer:
        for number in range(5):
            writer.write({"__key__": f"k{number}", "png": image(number), "txt": "a caption"})
    written = ShardSource(path=str(tmp_path / "written"))
    assert (written.counts, shown(written)) == ([2, 2, 1], [0, 1, 2, 3, 4])
    assert tarfile.is_tarfile(tars[0])
