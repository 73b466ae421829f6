"""Data behind a login: bearer tokens, a stub of the Hugging Face hub, and an S3-compatible server."""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest

from sr.core.errors import UserError
from sr.data import ShardSource
from sr.data.make_index import make_index
from sr.data.remote import transport
from sr.data.remote.transport import PermanentError
from tests.helpers.data import make_tar, png, shown

pytest_plugins = ["tests.helpers.shard_server"]
TOKEN = "hf_not_to_be_seen"


class Hub(BaseHTTPRequestHandler):
    """The calls of huggingface_hub that a private data set needs: its revision, its tree, and ranges of its files."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, folder = unquote(self.path.partition("?")[0]), self.server.folder
        files = [
            {"type": "file", "path": f"data/{file.name}", "size": file.stat().st_size, "oid": "0" * 40}
            for file in sorted(folder.iterdir())
        ]
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, b"")
        elif "/resolve/" in path and (folder / path.rpartition("/")[2]).is_file():
            self.file((folder / path.rpartition("/")[2]).read_bytes())
        elif path == "/api/datasets/me/set":
            self.answer(200, json.dumps({"id": "me/set", "sha": "1" * 40, "siblings": []}).encode())
        elif "/tree/" in path and path.endswith("/data"):
            self.answer(200, json.dumps(files).encode())
        elif "/tree/" in path:
            self.answer(200, json.dumps([{"type": "directory", "path": "data", "oid": "0" * 40}]).encode())
        elif "/paths-info/" in path:
            self.answer(200, json.dumps(files).encode())
        else:
            self.answer(404, b"")

    do_POST = do_HEAD = do_GET  # noqa: N815

    def file(self, data):
        given = self.headers.get("Range", "").removeprefix("bytes=")
        first, _, last = given.partition("-")
        body = data[int(first or 0) : int(last) + 1 if last else None]
        headers = {"ETag": '"tag"', "X-Repo-Commit": "1" * 40, "Accept-Ranges": "bytes"}
        if given:
            headers["Content-Range"] = f"bytes {first}-{int(first) + len(body) - 1}/{len(data)}"
        self.answer(206 if given else 200, body, headers)

    def answer(self, code, body, headers=None):
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    from huggingface_hub import HfFileSystem, constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.folder = tmp_path / "hub"
    server.folder.mkdir()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "*")
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    HfFileSystem.clear_instance_cache()
    yield server
    HfFileSystem.clear_instance_cache()
    server.shutdown()
    server.server_close()


def test_a_private_data_set_of_the_hub_is_read_with_hf_token(hub, tmp_path, monkeypatch, capfd):
    make_tar(hub.folder / "0.tar", {"a.png": png(1), "b.png": png(2)})
    make_tar(hub.folder / "1.tar", {"c.png": png(3)})
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    path, index = "hf://datasets/me/set/data/*.tar", tmp_path / "index.json"
    assert make_index(path, index, show=False).samples == 3
    source = ShardSource(path=path, index=str(index), cache=str(tmp_path / "cache"))
    assert shown(source) == [1, 2, 3]
    kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert TOKEN.encode() not in kept + "".join(capfd.readouterr()).encode()


def test_a_bearer_token_goes_to_its_host_alone(server, at, monkeypatch, tmp_path, capfd):
    server.publish()
    monkeypatch.setenv("SR_TOKEN_127_0_0_1", "t0p-secret")
    assert shown(at("")) == [0, 1, 2, 3, 4, 5]
    assert set(server.logins) == {"Bearer t0p-secret"}
    server.faults["t-0.tar"] = [403] * 20
    with pytest.raises(UserError, match="grant this machine") as refused:
        ShardSource(path=f"{server.url}/t-0.tar", cache=str(tmp_path / "another")).read(0, 0)
    kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"t0p-secret" not in kept + "".join(capfd.readouterr()).encode() + str(refused.value).encode()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("SR_TOKEN_DATA_EXAMPLE_ORG", "x")
    assert transport._login("https", "huggingface.co") == f"Bearer {TOKEN}"
    assert transport._login("https", "data.example.org") == "Bearer x"
    assert transport._login("https", "cdn.example.org") == ""
    with pytest.raises(PermanentError, match="SR_TOKEN_DATA_EXAMPLE_ORG would be sent unencrypted"):
        transport._login("http", "data.example.org")


@pytest.mark.slow
def test_an_s3_compatible_server_is_indexed_read_and_written(tmp_path, monkeypatch):
    moto, s3fs = pytest.importorskip("moto.server"), pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "not_to_be_seen",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "*",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        system = s3fs.S3FileSystem()
        system.mkdir("bucket")
        for number in range(3):
            system.put(str(make_tar(tmp_path / f"{number}.tar", {"a.png": png(number)})), f"bucket/set/{number}.tar")
        report = make_index("s3://bucket/set/*.tar", show=False)
        assert (report.samples, report.files) == (3, ["s3://bucket/set/index.json"])
        source = ShardSource(path="s3://bucket/set/", cache=str(tmp_path / "cache"))
        assert (source.counts, shown(source)) == ([1, 1, 1], [0, 1, 2])
        cached = b"".join(file.read_bytes() for file in (tmp_path / "cache").iterdir())
        assert os.environ["AWS_SECRET_ACCESS_KEY"].encode() not in cached
    finally:
        server.stop()
        s3fs.S3FileSystem.clear_instance_cache()
