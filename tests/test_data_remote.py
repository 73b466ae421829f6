"""Shards from afar: found, fetched once a node over lines that break, checked, and kept within a bound."""

import base64
import errno
import json
import multiprocessing
import os
import signal
import socket
import struct
import threading
import time
from collections import Counter
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice

import fsspec
import numpy as np
import pytest

from sr.data import ShardSource, cache, index, remote, transport
from sr.data.colorize import Colorize
from sr.data.crops import Crops
from sr.data.make import make_shards
from sr.data.order import Order
from sr.data.stream import Stream
from sr.errors import UserError
from sr.images import write_rgb
from tests.test_data_sources import make_tar, picture, png, shown
from tests.test_data_stream import SETTINGS, flat, same


class Handler(BaseHTTPRequestHandler):
    """Files of `server.folder`; the next of `server.faults[name]`, if any, says what goes wrong with a request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        name = self.path.partition("?")[0].lstrip("/")
        given = self.headers.get("Range", "")
        self.server.log.append((name, given))
        self.server.logins.append(self.headers.get("Authorization"))
        faults = self.server.faults.get(name, [])
        fault = faults.pop(0) if faults else None
        path = self.server.folder / name
        if isinstance(fault, int) or not path.is_file():
            return self.send_error(fault or 404)
        data = path.read_bytes()
        tag = f'"{hash(data)}"'
        start = int(given[len("bytes=") : -1]) if given and self.headers.get("If-Range", tag) == tag else 0
        start = start if self.server.ranges else 0
        body = data[start:]
        if fault == "corrupt":
            body = bytes([body[0] ^ 1]) + body[1:]
        if fault == "short":
            body = body[: len(body) // 2]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", formatdate(path.stat().st_mtime, usegmt=True))
        if self.server.tags:
            self.send_header("ETag", tag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        return self.send_body(body, fault)

    def send_body(self, body, fault):
        if fault in ("drop", "hang"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if fault == "hang":
                self.server.ended.wait(20)
            self.close_connection = True
            return
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return
        for at in range(0, len(body), 2000) if self.server.slow else [0]:
            self.wfile.write(body[at : at + 2000] if self.server.slow else body)
            time.sleep(self.server.slow)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """An HTTP server of tmp_path / "served"; waits between tries are made short."""
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(cache, "POLL", 0.02)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("NETRC", str(tmp_path / "no netrc"))
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.folder, made.log, made.logins, made.faults, made.slow = tmp_path / "served", [], [], {}, 0
    made.tags = made.ranges = True
    made.ended = threading.Event()
    made.url = f"http://127.0.0.1:{made.server_port}"
    made.gets = lambda: Counter(name for name, _ in made.log)
    made.folder.mkdir()
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.ended.set()
    made.shutdown()
    made.server_close()
    thread.join()


def publish(folder, shards=3, samples=2, size=8, *, indexed=True):
    """Tars t-0.tar, t-1.tar ... whose pictures are filled with 0, 1, ... and, if indexed, their index.json."""
    names = [f"t-{number}.tar" for number in range(shards)]
    for number, name in enumerate(names):
        members = {f"{s}.png": png(number * samples + s, size) for s in range(samples)}
        make_tar(folder / name, {**members, "noise.bin": np.random.default_rng(number).bytes(20000)})
    if indexed:
        entries = {name: index.scan(folder / name).entry for name in names}
        entries = {name: entry._replace(sha256=index.digest(folder / name)) for name, entry in entries.items()}
        index.write_folder_index(folder, entries)
    return names


@pytest.fixture
def at(server, tmp_path):
    """Opens the shards behind a URL relative to the server, cached in tmp_path / "cache"."""
    made = []

    def open_shards(path, **options):
        made.append(ShardSource(path=f"{server.url}/{path}", **{"cache": str(tmp_path / "cache")} | options))
        return made[-1]

    yield open_shards
    for source in made:
        source.expect([])
    for thread in threading.enumerate():
        if thread.name == "shards ahead":
            thread.join(10)


def held(tmp_path):
    return {path.name: size for _, size, path in cache._held(tmp_path / "cache")}


def test_the_index_makes_the_order_known_before_the_first_byte(server, at):
    publish(server.folder)
    source = at("")
    assert source.counts == [2, 2, 2]
    assert server.log == [("index.json", "")]
    assert shown(source) == [0, 1, 2, 3, 4, 5] == shown(at(""))
    assert server.gets() == {"index.json": 2, "t-0.tar": 1, "t-1.tar": 1, "t-2.tar": 1}
    assert source.name(1, 0) == "t-1.tar: 0"


def test_all_ways_to_name_them_lead_to_the_same_shards(server, at, tmp_path):
    publish(server.folder)
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


def test_what_is_not_there_is_told(server, at, tmp_path):
    for path, hint in (("t-*.tar", "HTTP lists no folders"), ("", "no index.json"), ("x.tar", r"/x\.tar: HTTP 404")):
        with pytest.raises(UserError, match=hint):
            at(path)
    publish(server.folder)
    with pytest.raises(UserError, match=r"u-\*\.tar' leads to no tar shards"):
        at("u-*.tar")
    (server.folder / "index.json").write_text("{")
    with pytest.raises(UserError, match=r"index\.json cannot be understood .*publish"):
        at("")
    (server.folder / "index.json").write_text('{"shards": [{"name": "../x.tar", "samples": 1, "bytes": 1}]}')
    with pytest.raises(UserError, match="not in its folder"):
        at("")
    (tmp_path / "list.txt").write_text("pipe:cat x.tar\n")
    for path in (f"list:{tmp_path}/list.txt", f"list:{tmp_path}/none.txt", "memory://none/x.tar", "nosuch://b/x.tar"):
        with pytest.raises(UserError, match=r"only the options may|cannot be read|not there|Protocol not known"):
            ShardSource(path=path, cache=str(tmp_path / "cache"))


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
    names = publish(server.folder, indexed=False)
    assert at("t-{0..2}.tar").counts == [2, 2, 2]
    assert server.gets() == {"index.json": 1} | dict.fromkeys(names, 1)
    for name in held(tmp_path):
        (tmp_path / "cache" / name).unlink()
    source = at("t-{0..2}.tar")
    assert server.gets() == {"index.json": 2} | dict.fromkeys(names, 1)
    assert shown(source) == [0, 1, 2, 3, 4, 5]
    make_tar(server.folder / "t-0.tar", {"a.png": png(9)})
    for name in held(tmp_path):
        (tmp_path / "cache" / name).unlink()
    with pytest.raises(UserError, match=rf"t-0\.tar: .*by {tmp_path}/cache/index\.json"):
        at("t-{0..2}.tar").read(0, 0)


def test_an_index_made_before_there_were_checksums_serves(server, at):
    publish(server.folder)
    content = json.loads((server.folder / "index.json").read_text())
    for row in content["shards"]:
        del row["sha256"]
    (server.folder / "index.json").write_text(json.dumps(content))
    server.faults["t-1.tar"] = ["drop", "short"]
    assert shown(at("")) == [0, 1, 2, 3, 4, 5]


def test_sr_shard_writes_the_checksums(tmp_path):
    write_rgb(tmp_path / "in.png", picture(3, 64))
    make_shards([tmp_path / "in.png"], tmp_path / "out", size=32, step=32, progress=False)
    [entry] = index.read_folder_index(tmp_path / "out").values()
    tar = tmp_path / "out" / "shard-000000.tar"
    assert entry == (4, tar.stat().st_size, index.digest(tar))
    assert index.load(tar).sha256 == entry.sha256


FAULTS = [
    [500, 503, 429],
    ["drop"],
    ["reset", "drop"],
    ["short"],
    ["corrupt"],
    ["hang"],
    ["drop", "corrupt", 500, "drop"],
]


@pytest.mark.parametrize("faults", FAULTS, ids=lambda faults: " ".join(map(str, faults)))
@pytest.mark.parametrize(("tags", "ranges"), [(True, True), (False, True), (True, False)])
def test_what_may_pass_is_tried_again(server, at, monkeypatch, capfd, faults, tags, ranges):
    publish(server.folder)
    server.tags, server.ranges = tags, ranges
    monkeypatch.setattr(transport, "PATIENCE", 0.3)
    server.faults = {"t-1.tar": [*faults], "index.json": [500]}
    assert shown(at("")) == [0, 1, 2, 3, 4, 5]
    assert server.gets()["t-1.tar"] == len(faults) + 1
    said = capfd.readouterr().err.splitlines()
    assert len([line for line in said if "/t-1.tar: " in line and "trying again in 0." in line]) == len(faults)


def test_a_broken_download_goes_on_where_it_broke(server, at):
    names = publish(server.folder)
    size = (server.folder / names[0]).stat().st_size
    server.faults[names[0]] = ["drop", "drop", "drop"]
    at("").read(0, 0)
    starts = [int(given[len("bytes=") : -1] or 0) if given else 0 for name, given in server.log if name == names[0]]
    assert starts == [0, size // 2, size // 2 + size // 4, size // 2 + size // 4 + (size - size // 2 - size // 4) // 2]


def test_a_file_that_changes_meanwhile_is_not_stitched(server, at, tmp_path):
    make_tar(server.folder / "x.tar", {"a.png": png(1), "b.bin": bytes(9000)})
    server.faults["x.tar"] = ["hang"]
    result = []
    thread = threading.Thread(target=lambda: result.append(shown(at("x.tar"))))
    thread.start()
    while not server.gets()["x.tar"]:
        time.sleep(0.01)
    time.sleep(0.1)
    make_tar(server.folder / "x.tar", {"a.png": png(2), "b.bin": bytes(9000)})
    server.ended.set()
    thread.join()
    assert result == [[2]]
    assert server.log[-1][1].startswith("bytes=")


@pytest.mark.parametrize(
    ("faults", "requests", "cause"),
    [
        ([404], 1, r"HTTP 404.*correct the path or publish"),
        ([403], 1, r"HTTP 403.*right to read"),
        ([401], 1, r"HTTP 401.*right to read"),
        ([500] * 9, 6, r"HTTP 500.*\(6 tries\); mend the server"),
        (["short"] * 9, 6, r"it has \d+ bytes, and \d+ by index\.json \(6 tries\)"),
        (["corrupt"] * 9, 2, r"what came is not what index\.json says \(SHA-256\), twice the same; publish"),
        (["reset"] * 9, 6, r"(.* reset by peer|0 bytes came of \d+) \(6 tries\)"),
    ],
    ids=["404", "403", "401", "500", "short", "corrupt", "reset"],
)
def test_hopeless_shards_end_it_with_name_and_cause(server, at, faults, requests, cause):
    publish(server.folder)
    server.faults["t-1.tar"] = faults
    source = at("")
    source.read(0, 0)
    with pytest.raises(UserError, match=rf"^{server.url}/t-1\.tar: {cause}"):
        source.read(1, 0)
    assert server.gets()["t-1.tar"] == requests


def test_a_server_that_is_not_there_is_told(at, server, monkeypatch):
    monkeypatch.setattr(remote, "TRIES", 3)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(UserError, match=r"t-0\.tar|index\.json: .*refused \(3 tries\)"):
            ShardSource(path=f"http://127.0.0.1:{free.getsockname()[1]}/t-0.tar", cache=str(server.folder / "c"))


def test_what_is_no_tar_is_told_by_its_url(server, at, tmp_path):
    (server.folder / "x.tar").write_bytes(b"<html>" * 1000)
    with pytest.raises(UserError, match=rf"^{server.url}/x\.tar is not a whole, uncompressed tar"):
        at("x.tar")
    make_tar(server.folder / "x.tar", {"a.png": png(1)})
    index.write_folder_index(server.folder, {"x.tar": index.Entry(2, (server.folder / "x.tar").stat().st_size)})
    with pytest.raises(UserError, match=r"x\.tar holds 1 samples but index\.json says 2; publish"):
        at("x.tar").read(0, 0)


def test_a_hopeless_shard_ends_a_run_with_workers_too(server, at):
    publish(server.folder)
    server.faults["t-1.tar"] = [404] * 99
    with pytest.raises(UserError, match=r"^http.*/t-1\.tar: HTTP 404: Not Found; correct"):
        list(islice(Stream(at(""), batch_size=2, workers=2, **SETTINGS).batches(), 9))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_stream_is_that_of_local_shards(server, at, workers):
    publish(server.folder, shards=20, samples=3, size=24)
    local = Stream(ShardSource(path=str(server.folder)), batch_size=8, **SETTINGS)
    server.faults = {f"t-{n}.tar": ["drop"] for n in range(0, 20, 3)}
    away = Stream(at(""), batch_size=8, workers=workers, **SETTINGS)
    for ours, theirs in islice(zip(away.batches(24), local.batches(24), strict=True), 12):
        ours, theirs = flat(ours), flat(theirs)
        assert ours.keys() == theirs.keys()
        assert all(same(ours[position], theirs[position]) for position in ours)
    fetched = server.gets()
    assert all(fetched[f"t-{n}.tar"] == 1 + (n % 3 == 0) for n in range(20))


def read_all(source):
    os._exit(0 if shown(source) == list(range(12)) else 1)


def test_several_processes_fetch_a_shard_once(server, at):
    publish(server.folder, shards=6)
    server.slow = 0.005
    source = at("")
    processes = [multiprocessing.get_context("fork").Process(target=read_all, args=(source,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert server.gets() == {"index.json": 1} | {f"t-{n}.tar": 1 for n in range(6)}


def test_whoever_waits_for_a_shard_gets_it_while_others_keep_it_open(server, tmp_path):
    [name] = publish(server.folder, shards=1)
    server.slow = 0.02
    shard = remote.Remote(f"{server.url}/{name}", index.read_folder_index(server.folder)[name])
    files = []
    threads = [
        threading.Thread(
            target=lambda: files.append(cache.Cache(tmp_path / "cache", limit=10**6).open(shard)), daemon=True
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(files) == 4
    assert server.gets() == {name: 1}
    for path in (tmp_path / "cache").iterdir():
        path.unlink()
    assert all(os.pread(file.fileno(), 10**6, 0) == (server.folder / name).read_bytes() for file in files)


def test_a_kill_while_fetching_leaves_no_half_file_under_its_name(server, at, tmp_path):
    publish(server.folder, shards=1, samples=6)
    server.faults["t-0.tar"] = ["hang"]
    source = at("")
    process = multiprocessing.get_context("fork").Process(target=source.read, args=(0, 0))
    process.start()
    while not any(os.path.getsize(tmp_path / "cache" / name) for name in held(tmp_path)):
        time.sleep(0.01)
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert [name.rpartition(".")[2] for name in held(tmp_path)] == ["part"]
    assert shown(source) == list(range(6))
    assert [name.rpartition(".")[2] for name in held(tmp_path)] == ["tar"]


def test_the_coming_shards_are_fetched_ahead(server, at):
    names = sorted(publish(server.folder, shards=40, samples=2))
    photos = at("")
    crops = Crops(Colorize(of=lambda channels: photos), **SETTINGS | {"scale": 1})
    crops.crop(0)
    deadline = time.monotonic() + 10
    while sum(server.gets().values()) < 33 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.1)
    order = Order(photos.counts, seed=SETTINGS["seed"])
    coming = [names[shard] for shard in order.coming(0, 0)]
    assert len(coming) == 32
    assert server.gets() == {"index.json": 1} | dict.fromkeys(coming, 1)
    assert {names[order(position).shard] for position in range(64)} == set(coming)
    server.faults = {name: [404] for name in coming}
    assert all(not crops.crop(position).bad for position in range(32))


def test_the_bound_holds_and_nothing_that_is_needed_goes(server, at, tmp_path):
    publish(server.folder, shards=50, samples=1)
    size = (server.folder / "t-0.tar").stat().st_size
    source = at("", cache_gb=33 * size / 1e9)
    crops, most, ended = Crops(source, **SETTINGS), [], threading.Event()
    (tmp_path / "cache" / "mine.tar").write_bytes(bytes(size))

    def watch():
        while not ended.wait(0.002):
            with source._cache._alone():
                files = {path.stat().st_ino: size for _, size, path in cache._held(tmp_path / "cache")}
            most.append(sum(files.values()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for position in range(100):
        assert not crops.crop(position).bad
        time.sleep(0.01)
    ended.set()
    watcher.join()
    assert 30 * size < max(most) <= 33 * size
    assert (tmp_path / "cache" / "mine.tar").exists()
    assert max(server.gets().values()) <= 3
    assert len(list((tmp_path / "cache").glob("*.index.json"))) <= 34


def test_a_shard_in_use_stays_and_one_out_of_use_goes(server, tmp_path):
    names = publish(server.folder)
    entries = index.read_folder_index(server.folder)
    store = cache.Cache(tmp_path / "cache", limit=entries[names[0]].bytes)
    shards = [remote.Remote(f"{server.url}/{name}", entries[name]) for name in names]
    with store.open(shards[0]):
        store.open(shards[1]).close()  # more than the bound: what is in use cannot go
        assert len(held(tmp_path)) == 2
    store.open(shards[2]).close()
    assert held(tmp_path).keys() == {store.path(shards[2]).name}
    other = cache.Cache(tmp_path / "cache", limit=entries[names[0]].bytes)
    store.expect([shards[2]])
    with store.open(shards[2]), other.open(shards[1]):
        other.expect(shards)
        time.sleep(0.2)
        assert len(held(tmp_path)) == 2, "fetching ahead goes over the bound"
    other.expect([])


def test_a_bound_below_two_windows_is_refused(server, at):
    publish(server.folder)
    with pytest.raises(UserError, match=r"cache_gb 1e-05 is less than the .* GB of two windows of 16 shards.*raise it"):
        at("", cache_gb=1e-5)


def test_a_full_disk_is_told(server, at, monkeypatch, tmp_path):
    publish(server.folder)
    source = at("")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(UserError, match=rf"cache {tmp_path}/cache: No space left on device; make room"):
        source.read(0, 0)
    assert held(tmp_path) == {}
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Not a directory; make room there, or give"):
        at("", cache=str(tmp_path / "file" / "cache"))


def test_pipes_that_fail_are_told_and_their_words_are_kept_secret(tmp_path, monkeypatch, server):
    publish(server.folder)
    monkeypatch.setattr(remote, "TRIES", 2)
    monkeypatch.setattr(transport, "PATIENCE", 0.3)
    start = time.monotonic()
    for command, cause in (
        (
            "KEY=secret cat secret none-0.tar",
            r"^pipe:cat \.\.\. none-0\.tar: the command ended with code 1 \(2 tries\)",
        ),
        ("nosuchprogram secret", r"^pipe:nosuchprogram: the command cannot be run \(code 127\); correct it"),
        ("sleep 60 secret || sleep 60", r"^pipe:sleep: the command wrote nothing for 0 s"),
        ("printf secret", r"^pipe:printf is not a whole"),
        ("echo {secret", "unbalanced braces"),
    ):
        with pytest.raises(UserError, match=cause) as told:
            ShardSource(path=f"pipe:{command}", cache=str(tmp_path / "cache"))
        assert "secret" not in str(told.value)
    assert time.monotonic() - start < 20
    flaky = f"[ -e {tmp_path}/once ] && cat {server.folder}/t-0.tar || (touch {tmp_path}/once; exit 3)"
    assert shown(ShardSource(path=f"pipe:{flaky}", cache=str(tmp_path / "cache"))) == [0, 1]


def test_credentials_are_used_and_never_shown(server, at, tmp_path, monkeypatch, capfd):
    publish(server.folder)
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


def test_waits_double_and_are_the_same_in_every_run_but_not_on_every_rank(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    waits = [remote.backoff("http://host/x.tar", failed) for failed in range(1, 12)]
    assert waits == [remote.backoff("http://host/x.tar", failed) for failed in range(1, 12)]
    for wait, middle in zip(waits, [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30, 30], strict=True):
        assert 0.5 * middle <= wait <= 1.5 * middle
    monkeypatch.setenv("RANK", "1")
    assert waits != [remote.backoff("http://host/x.tar", failed) for failed in range(1, 12)]
