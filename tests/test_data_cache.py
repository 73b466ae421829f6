"""The cache of remote shards: each once a node, ahead of its turn, whole or not at all, within its bound."""

import errno
import multiprocessing
import os
import signal
import threading
import time

import pytest

from sr.core.errors import UserError
from sr.data import index
from sr.data.colorize import Colorize
from sr.data.crops import Crops
from sr.data.remote import cache, download
from sr.data.sampling_order import SamplingOrder
from tests.helpers.data import SETTINGS, shown

pytest_plugins = ["tests.helpers.shard_server"]


def read_all(source):
    os._exit(0 if shown(source) == list(range(12)) else 1)


def test_several_processes_fetch_a_shard_once(server, at):
    server.publish(shards=6)
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
    [name] = server.publish(shards=1)
    server.slow = 0.02
    shard = download.Remote(f"{server.url}/{name}", index.read_folder_index(server.folder)[name])
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


def test_a_shard_that_came_between_two_looks_is_not_fetched_again(server, tmp_path, monkeypatch):
    [name] = server.publish(shards=1)
    shard = download.Remote(f"{server.url}/{name}", index.read_folder_index(server.folder)[name])
    local = cache.Cache(tmp_path / "cache", limit=10**6)
    local.open(shard).close()
    looks = iter([lambda path: None])  # before the other had finished it
    opened = cache._opened
    monkeypatch.setattr(cache, "_opened", lambda path: next(looks, opened)(path))
    assert local.open(shard).read() == (server.folder / name).read_bytes()
    assert server.gets() == {name: 1}


def test_a_kill_while_fetching_leaves_no_half_file_under_its_name(server, at, tmp_path):
    server.publish(shards=1, samples=6)
    server.faults["t-0.tar"] = ["hang"]
    source = at("")
    process = multiprocessing.get_context("fork").Process(target=source.read, args=(0, 0))
    process.start()
    while not any(os.path.getsize(tmp_path / "cache" / name) for name in server.held()):
        time.sleep(0.01)
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert [name.rpartition(".")[2] for name in server.held()] == ["part"]
    assert shown(source) == list(range(6))
    assert [name.rpartition(".")[2] for name in server.held()] == ["tar"]


def test_the_coming_shards_are_fetched_ahead(server, at):
    names = sorted(server.publish(shards=40, samples=2))
    photos = at("")
    crops = Crops(Colorize(of=lambda channels: photos), **SETTINGS | {"scale": 1})
    crops.crop(0)
    deadline = time.monotonic() + 10
    while sum(server.gets().values()) < 33 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.1)
    order = SamplingOrder(photos.counts, seed=SETTINGS["seed"])
    coming = [names[shard] for shard in order.coming(0, 0)]
    assert len(coming) == 32
    assert server.gets() == {"index.json": 1} | dict.fromkeys(coming, 1)
    assert {names[order(position).shard] for position in range(64)} == set(coming)
    server.faults = {name: [404] for name in coming}
    assert all(not crops.crop(position).bad for position in range(32))


def test_the_bound_holds_and_nothing_that_is_needed_goes(server, at, tmp_path):
    server.publish(shards=50, samples=1)
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
    names = server.publish()
    entries = index.read_folder_index(server.folder)
    store = cache.Cache(tmp_path / "cache", limit=entries[names[0]].bytes)
    shards = [download.Remote(f"{server.url}/{name}", entries[name]) for name in names]
    with store.open(shards[0]):
        store.open(shards[1]).close()  # more than the bound: what is in use cannot go
        assert len(server.held()) == 2
    store.open(shards[2]).close()
    assert server.held().keys() == {store.path(shards[2]).name}
    other = cache.Cache(tmp_path / "cache", limit=entries[names[0]].bytes)
    store.expect([shards[2]])
    with store.open(shards[2]), other.open(shards[1]):
        other.expect(shards)
        time.sleep(0.2)
        assert len(server.held()) == 2, "fetching ahead goes over the bound"
    other.expect([])


def test_a_bound_below_two_windows_is_refused(server, at):
    server.publish()
    with pytest.raises(
        UserError, match=r"two windows of 16 shards.*cache_gb 1e-05 is less.*lower data\.source\.window"
    ):
        at("", cache_gb=1e-5)


def test_a_full_disk_is_reported(server, at, monkeypatch, tmp_path):
    server.publish()
    source = at("")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(UserError, match=rf"cache {tmp_path}/cache: No space left on device; free some space"):
        source.read(0, 0)
    assert server.held() == {}
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Not a directory; free some space, or set data\.source\.cache"):
        at("", cache=str(tmp_path / "file" / "cache"))
