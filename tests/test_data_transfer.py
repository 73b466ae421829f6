"""Downloads over unreliable connections: retry, resume, verification, and errors with name and cause."""

import errno
import io
import multiprocessing
import socket
import threading
import time
from itertools import islice

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from sr.core.errors import UserError
from sr.data import ShardSource, index
from sr.data.loader import Loader
from sr.data.remote import download, transport
from tests.helpers.data import SETTINGS, make_tar, png, shown

pytest_plugins = ["tests.helpers.shard_server"]


def test_a_download_from_a_failing_file_system_resumes(server, tmp_path, monkeypatch):
    [name] = server.publish(shards=1)
    data = (server.folder / name).read_bytes()
    half, starts = len(data) // 2, []

    class Breaking(io.BytesIO):
        size = len(data)

        def read(self, length):
            starts.append(self.tell())
            if len(starts) == 2:
                raise OSError(errno.ECONNRESET, "Connection reset")
            return super().read(half)

    memory = fsspec.filesystem("memory")
    memory.pipe_file("/broken/x.tar", data)
    opened = MemoryFileSystem._open
    monkeypatch.setattr(MemoryFileSystem, "_open", lambda self, path, **o: Breaking(opened(self, path, **o).getvalue()))
    assert shown(ShardSource(path="memory://broken/x.tar", cache=str(tmp_path / "cache"))) == [0, 1]
    assert starts == [0, half, half]
    memory.rm("/broken", recursive=True)


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
    server.publish()
    server.tags, server.ranges = tags, ranges
    monkeypatch.setattr(transport, "TIMEOUT", 1 if "hang" in faults else 30)
    server.faults = {"t-1.tar": [*faults], "index.json": [500]}
    assert shown(at("")) == [0, 1, 2, 3, 4, 5]
    assert server.gets()["t-1.tar"] == len(faults) + 1
    said = capfd.readouterr().err.splitlines()
    assert len([line for line in said if "/t-1.tar: " in line and "retrying in 0." in line]) == len(faults)


def test_a_broken_download_resumes(server, at):
    names = server.publish()
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
        ([403], 1, r"HTTP 403.*grant this machine read access"),
        ([401], 1, r"HTTP 401.*grant this machine read access"),
        ([500] * 9, 8, r"HTTP 500.*\(8 tries\); check the server"),
        (["short"] * 9, 8, r"the server has \d+ bytes, but index\.json states \d+ \(8 tries\)"),
        (["corrupt"] * 9, 2, r"the SHA-256 differs from index\.json, twice with the same value; publish"),
        (["reset"] * 9, 8, r"(.* reset by peer|received 0 of \d+ bytes) \(8 tries\)"),
    ],
    ids=["404", "403", "401", "500", "short", "corrupt", "reset"],
)
def test_hopeless_shards_end_it_with_name_and_cause(server, at, faults, requests, cause):
    server.publish()
    server.faults["t-1.tar"] = faults
    source = at("")
    source.read(0, 0)
    with pytest.raises(UserError, match=rf"^{server.url}/t-1\.tar: {cause}"):
        source.read(1, 0)
    assert server.gets()["t-1.tar"] == requests


def test_an_unreachable_server_is_reported(at, server, monkeypatch):
    monkeypatch.setattr(download, "TRIES", 3)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(UserError, match=r"t-0\.tar|index\.json: .*refused \(3 tries\)"):
            ShardSource(path=f"http://127.0.0.1:{free.getsockname()[1]}/t-0.tar", cache=str(server.folder / "c"))


def test_what_is_no_tar_is_named_by_its_url(server, at, tmp_path):
    (server.folder / "x.tar").write_bytes(b"<html>" * 1000)
    with pytest.raises(UserError, match=rf"^{server.url}/x\.tar is not a whole, uncompressed tar"):
        list(at("x.tar").counts)
    make_tar(server.folder / "x.tar", {"a.png": png(1)})
    index.write_folder_index(server.folder, {"x.tar": index.Entry(2, (server.folder / "x.tar").stat().st_size)})
    with pytest.raises(UserError, match=r"x\.tar holds 1 samples but index\.json states 2; publish"):
        at("x.tar").read(0, 0)


def test_a_hopeless_shard_ends_a_run_with_workers_too(server, at):
    server.publish()
    server.faults["t-1.tar"] = [404] * 99
    with pytest.raises(UserError, match=r"^http.*/t-1\.tar: HTTP 404: Not Found; correct"):
        list(islice(Loader(at(""), batch_size=2, workers=2, **SETTINGS).batches(), 9))
    assert not multiprocessing.active_children()


def test_failing_pipes_are_reported_without_their_arguments(tmp_path, monkeypatch, server):
    server.publish()
    monkeypatch.setattr(download, "TRIES", 2)
    monkeypatch.setattr(transport, "TIMEOUT", 0.3)
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
            list(ShardSource(path=f"pipe:{command}", cache=str(tmp_path / "cache")).counts)
        assert "secret" not in str(told.value)
    assert time.monotonic() - start < 60  # as long as one sleep
    flaky = f"[ -e {tmp_path}/once ] && cat {server.folder}/t-0.tar || (touch {tmp_path}/once; exit 3)"
    assert shown(ShardSource(path=f"pipe:{flaky}", cache=str(tmp_path / "cache"))) == [0, 1]


def test_waits_double_and_are_the_same_in_every_run_but_not_on_every_rank(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    waits = [download.backoff("http://host/x.tar", failed) for failed in range(1, 12)]
    assert waits == [download.backoff("http://host/x.tar", failed) for failed in range(1, 12)]
    for wait, middle in zip(waits, [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30, 30], strict=True):
        assert 0.5 * middle <= wait <= 1.5 * middle
    monkeypatch.setenv("RANK", "1")
    assert waits != [download.backoff("http://host/x.tar", failed) for failed in range(1, 12)]
