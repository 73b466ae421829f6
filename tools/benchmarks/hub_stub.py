"""A stub of the Hugging Face hub: the calls of huggingface_hub that a private data set needs."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import unquote

TOKEN = "hf_not_to_be_seen"


class Hub(BaseHTTPRequestHandler):
    """The revision of the data set `me/set`, its tree, and ranges of the files of `server.folder` as `data/`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, folder = unquote(self.path.partition("?")[0]), self.server.folder  # type: ignore[attr-defined]
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

    def file(self, data: bytes) -> None:
        given = self.headers.get("Range", "").removeprefix("bytes=")
        first, _, last = given.partition("-")
        body = data[int(first or 0) : int(last) + 1 if last else None]
        headers = {"ETag": '"tag"', "X-Repo-Commit": "1" * 40, "Accept-Ranges": "bytes"}
        if given:
            headers["Content-Range"] = f"bytes {first}-{int(first) + len(body) - 1}/{len(data)}"
        self.answer(206 if given else 200, body, headers)

    def answer(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
            self.server.sent += len(body)  # type: ignore[attr-defined]

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def hub(folder: Path) -> Iterator[Any]:
    """A running stub with the files of `folder`, to which `hf://datasets/me/set/data/` leads meanwhile."""
    from huggingface_hub import HfFileSystem, constants

    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.folder, server.sent = folder, 0
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    HfFileSystem.clear_instance_cache()
    try:
        with (
            mock.patch.dict("os.environ", {"NO_PROXY": "*", "HF_TOKEN": TOKEN}),
            mock.patch.object(constants, "ENDPOINT", url),
            mock.patch.object(
                constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
            ),
        ):
            yield server
    finally:
        HfFileSystem.clear_instance_cache()
        server.shutdown()
        server.server_close()
