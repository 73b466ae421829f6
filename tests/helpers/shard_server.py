"""A web server of shards with faults on demand; test modules load it by `pytest_plugins`."""

import socket
import struct
import threading
import time
from collections import Counter
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from sr.core.digest import sha256_of
from sr.data import ShardSource, index, scan
from sr.data.remote import cache, download
from tests.helpers.data import make_tar, png


class Handler(BaseHTTPRequestHandler):
    """Serves files of `server.folder`; the next entry of `server.faults[name]` is the fault of a request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        name = self.path.partition("?")[0].lstrip("/")
        given = self.headers.get("Range", "")
        self.server.log.append((name, given))
        self.server.logins.append(self.headers.get("Authorization"))
        faults = self.server.faults.get(name, [])
        fault = faults.pop(0) if faults else None
        path = self.server.folder / name
        if self.server.down:
            return self.send_error(503)
        if isinstance(fault, int) or not path.is_file():
            return self.send_error(fault or 404)
        data = path.read_bytes()
        tag = f'"{hash(data)}"'
        partial = given and self.headers.get("If-Range", tag) == tag and self.server.ranges
        first, _, last = given.removeprefix("bytes=").partition("-") if partial else ("0", "", "")
        start = int(first)
        body = data[start : int(last) + 1 if last else None]
        if fault == "corrupt":
            body = bytes([body[0] ^ 1]) + body[1:]
        if fault == "short":
            body = body[: len(body) // 2]
        self.server.sent[name] += len(body)
        self.send_response(206 if partial else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", formatdate(path.stat().st_mtime, usegmt=True))
        if self.server.tags:
            self.send_header("ETag", tag)
        if partial:
            self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{len(data)}")
        self.end_headers()
        return self.send_body(body, fault)

    def do_HEAD(self):
        path = self.server.folder / self.path.lstrip("/")
        self.send_response(200 if path.is_file() else 404)
        self.send_header("Content-Length", str(path.stat().st_size if path.is_file() else 0))
        self.end_headers()

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
    monkeypatch.setattr(download, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(cache, "POLL", 0.02)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("NETRC", str(tmp_path / "no netrc"))
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.folder, made.log, made.logins, made.faults, made.slow = tmp_path / "served", [], [], {}, 0
    made.sent = Counter()
    made.down = False
    made.tags = made.ranges = True
    made.ended = threading.Event()
    made.url = f"http://127.0.0.1:{made.server_port}"
    made.gets = lambda: Counter(name for name, _ in made.log)
    made.publish = lambda *args, **options: publish(made.folder, *args, **options)
    made.held = lambda: {path.name: size for _, size, path in cache._held(tmp_path / "cache")}
    made.folder.mkdir()
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.ended.set()
    made.shutdown()
    made.server_close()
    thread.join()


def publish(folder, shards=3, samples=2, size=8, *, indexed=True):
    """Tars t-0.tar, t-1.tar ... whose images are filled with 0, 1, ... and, if indexed, their index.json."""
    names = [f"t-{number}.tar" for number in range(shards)]
    for number, name in enumerate(names):
        members = {f"{s}.png": png(number * samples + s, size) for s in range(samples)}
        make_tar(folder / name, {**members, "noise.bin": np.random.default_rng(number).bytes(20000)})
    if indexed:
        entries = {name: scan.scan(folder / name).entry for name in names}
        entries = {name: entry._replace(sha256=sha256_of(folder / name)) for name, entry in entries.items()}
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
