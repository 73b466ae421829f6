"""Shards from afar: found by their index, under all the names they may have, and the stream they give."""

import base64
import json
import os
from itertools import islice

import fsspec
import pytest

from sr.core.digest import sha256_of
from sr.core.errors import UserError
from sr.data import ShardSource, index
from sr.data.loader import Loader
from sr.data.make_shards import make_shards
from sr.images import write_rgb
from tests.helpers.data import SETTINGS, flat, image, make_tar, png, same, shown

pytest_plugins = ["tests.helpers.shard_server"]


def test_the_index_makes_the_order_known_before_the_first_byte(server, at):
    server.publish()
    source = at("")
    assert source.counts == [2, 2, 2]
    assert server.log == [("index.json", "")]
    assert shown(source) == [0, 1, 2, 3, 4, 5] == shown(at(""))
    assert server.gets() == {"index.json": 2, "t-0.tar": 1, "t-1.tar": 1, "t-2.tar": 1}
    assert source.name(1, 0) == "t-1.tar: 0"


def test_all_ways_to_name_them_lead_to_the_same_shards(server, at, tmp_path):
    server.publish()
    listed = tmp_path / "list.txt"
    listed.write_text(f"# two patterns\n{server.url}/t-0.tar\n\n{server.url}/t-{{1..2}}.tar\n")
    memory = fsspec.filesystem("memory")
    memory.put(str(server.folder), "/remote/served", recursive=True)
    folder = f"file://{server.folder}"
    paths = [
        *(f"{base}/{end}" for base in (server.url, folder, "memory://remote/served") for end in ("", "t-*.tar")),
        f"{server.url}/t-{{0..2}}.tar",
        "memory://remote/served/t-{0..2}.tar",
        "memory://remote/*/t-*.tar",
        "memory://remote/served",
        f"list:{listed}",
        f"pipe:cat {server.folder}/t-{{0..2}}.tar",
        [f"{server.folder}/t-0.tar", f"{server.url}/t-1.tar", f"pipe:cat < {server.folder}/t-2.tar"],
    ]
    for path in paths:
        assert shown(ShardSource(path=path, cache=str(tmp_path / "cache"))) == [0, 1, 2, 3, 4, 5], path
    memory.rm("/remote", recursive=True)


def test_what_is_missing_is_reported(server, at, tmp_path):
    for path, hint in (("t-*.tar", "HTTP lists no folders"), ("", "no index.json"), ("x.tar", r"/x\.tar: HTTP 404")):
        with pytest.raises(UserError, match=hint):
            list(at(path).counts)
    server.publish()
    with pytest.raises(UserError, match=r"u-\*\.tar' matches no tar shards"):
        at("u-*.tar")
    (server.folder / "index.json").write_text("{")
    with pytest.raises(UserError, match=r"index\.json cannot be understood .*publish"):
        at("")
    (server.folder / "index.json").write_text('{"shards": [{"name": "../x.tar", "samples": 1, "bytes": 1}]}')
    with pytest.raises(UserError, match="not in its folder"):
        at("")
    (tmp_path / "list.txt").write_text("pipe:cat x.tar\n")
    for path in (f"list:{tmp_path}/list.txt", f"list:{tmp_path}/none.txt", "memory://none/x.tar", "nosuch://b/x.tar"):
        with pytest.raises(
            UserError, match=r"allowed in the options only|cannot be read|does not exist|Protocol not known"
        ):
            list(ShardSource(path=path, cache=str(tmp_path / "cache")).counts)


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_missing_package_is_named(tmp_path, scheme, package):
    try:
        __import__(package)
    except ImportError:
        with pytest.raises(UserError, match=rf"{scheme}://bucket/.*{package}.*install"):
            ShardSource(path=f"{scheme}://bucket/t-{{0..2}}.tar", cache=str(tmp_path))
    else:
        pytest.skip(f"{package} is installed")


def test_without_an_index_each_is_fetched_once_and_counted_for_good(server, at, tmp_path):
    names = server.publish(indexed=False)
    assert list(at("t-{0..2}.tar").counts) == [2, 2, 2]
    assert {name: server.gets()[name] for name in ("index.json", *names)} == {"index.json": 1} | dict.fromkeys(names, 1)
    for name in server.held():
        (tmp_path / "cache" / name).unlink()
    source = at("t-{0..2}.tar")
    assert {name: server.gets()[name] for name in ("index.json", *names)} == {"index.json": 2} | dict.fromkeys(names, 1)
    assert shown(source) == [0, 1, 2, 3, 4, 5]
    make_tar(server.folder / "t-0.tar", {"a.png": png(9)})
    for name in server.held():
        (tmp_path / "cache" / name).unlink()
    with pytest.raises(UserError, match=rf"t-0\.tar: .* but {tmp_path}/cache/index\.json states"):
        at("t-{0..2}.tar").read(0, 0)


def test_an_index_made_before_there_were_checksums_serves(server, at):
    server.publish()
    content = json.loads((server.folder / "index.json").read_text())
    for row in content["shards"]:
        del row["sha256"]
    (server.folder / "index.json").write_text(json.dumps(content))
    server.faults["t-1.tar"] = ["drop", "short"]
    assert shown(at("")) == [0, 1, 2, 3, 4, 5]


def test_sr_shard_writes_the_checksums(tmp_path):
    write_rgb(tmp_path / "in.png", image(3, 64))
    make_shards([tmp_path / "in.png"], tmp_path / "out", size=32, step=32, progress=False)
    [entry] = index.read_folder_index(tmp_path / "out").values()
    tar = tmp_path / "out" / "shard-000000.tar"
    assert entry[:3] == (4, tar.stat().st_size, sha256_of(tar))
    assert index.load(tar).sha256 == entry.sha256


@pytest.mark.parametrize("workers", [0, 2])
def test_the_stream_is_that_of_local_shards(server, at, workers):
    server.publish(shards=20, samples=3, size=24)
    local = Loader(ShardSource(path=str(server.folder)), batch_size=8, **SETTINGS)
    server.faults = {f"t-{n}.tar": ["drop"] for n in range(0, 20, 3)}
    away = Loader(at(""), batch_size=8, workers=workers, **SETTINGS)
    for ours, theirs in islice(zip(away.batches(24), local.batches(24), strict=True), 12):
        ours, theirs = flat(ours), flat(theirs)
        assert ours.keys() == theirs.keys()
        assert all(same(ours[position], theirs[position]) for position in ours)
    fetched = server.gets()
    assert all(fetched[f"t-{n}.tar"] == 1 + (n % 3 == 0) for n in range(20))


def test_credentials_are_used_and_never_shown(server, at, tmp_path, monkeypatch, capfd):
    server.publish()
    server.faults["t-1.tar"] = [500, 404]
    source = at("t-{0..2}.tar?signature=secret")
    assert source.counts == [2, 2, 2]
    with pytest.raises(UserError, match=r"/t-1\.tar: HTTP 404") as told:
        source.read(1, 0)
    with pytest.raises(UserError, match="netrc") as refused:
        ShardSource(path=server.url.replace("//", "//me:secret@") + "/t-0.tar", cache=str(tmp_path / "cache"))
    assert "secret" not in str(told.value) + str(refused.value) + capfd.readouterr().err
    assert "secret" not in "".join(os.listdir(tmp_path / "cache"))
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    source.read(2, 0)
    assert server.logins[-1] == "Basic " + base64.b64encode(b"me:mine").decode()
    assert set(server.logins[:-1]) == {None}
