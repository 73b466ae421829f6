"""Answers of a server: mutated indexes, shards and models, wrong lengths and status codes, cut connections."""

import os
import random
import shutil
import threading
from collections.abc import Callable
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fuzz_mutations as mutate
import numpy as np
from fuzz_inputs import ACCEPTED, Indexes, demand, pixels, read_all, sentence

from sr.core.errors import UserError
from sr.data.remote import download
from sr.inference import zoo
from sr.inference.zoo.catalog import Published

Answer = Callable[[bytes, random.Random], tuple[int, bytes, int]]  # status, body, Content-Length


def mutated(content: bytes, rng: random.Random) -> tuple[int, bytes, int]:
    body = mutate.of_bytes(content, rng)
    return 200, body, len(body)


def cut(content: bytes, rng: random.Random) -> tuple[int, bytes, int]:
    return 200, content[: rng.randrange(len(content))], len(content)


def mislabeled(content: bytes, rng: random.Random) -> tuple[int, bytes, int]:
    return 200, content, max(0, len(content) + rng.choice((-1, 1)) * rng.randint(1, len(content)))


def refused(content: bytes, rng: random.Random) -> tuple[int, bytes, int]:
    page = b"<html>no</html>"
    return rng.choice((204, 301, 400, 401, 403, 404, 416, 429, 500, 503)), page, len(page)


def page(content: bytes, rng: random.Random) -> tuple[int, bytes, int]:
    body = b"<!DOCTYPE html><html><body>Please log in</body></html>"
    return 200, body, len(body)


class Server(ThreadingHTTPServer):
    """Serves `files` by name. `wrong` answers the requests for one of them, always or for the first `times`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def disturb(self, rng: random.Random) -> None:
        """Choose a file and how it is answered from now on."""
        self.name, self.rng = rng.choice(sorted(self.files)), rng
        self.wrong: Answer = rng.choice((mutated, mutated, cut, mislabeled, refused, page))
        self.times = rng.choice((1, 10**9))

    def answer(self, name: str) -> tuple[int, bytes, int]:
        content = self.files.get(name)
        if content is None:
            return 404, b"", 0
        if name == self.name and self.times > 0:
            self.times -= 1
            return self.wrong(content, self.rng)
        return 200, content, len(content)


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        status, body, length = self.server.answer(self.path.lstrip("/"))
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


def impatient() -> None:
    """Retry twice and at once."""
    download.TRIES = download.TRIES_WITH_COPY = zoo.TRIES = 2
    download.FIRST_WAIT = 0.0


class RemoteIndexes:
    """Shards on a server, each case with an empty cache: all samples of all images, or a sentence."""

    def __init__(self, folder: Path) -> None:
        impatient()
        os.environ["SR_HOME"] = str(folder / "home")
        self.folder, made = folder, Indexes(folder)
        self.samples, self.pixels = made.samples, made.pixels
        self.server = Server()
        self.server.files = {path.name: path.read_bytes() for path in made.folder.iterdir() if path.is_file()}

    def __call__(self, rng: random.Random) -> str:
        shutil.rmtree(self.folder / "home", ignore_errors=True)
        self.server.disturb(rng)
        try:
            source, messages, seen = read_all(self.server.url, "127.0.0.1")
            demand(seen == self.samples or bool(messages), f"{self.samples} samples became {seen} without a message")
            wrong = [at for at, image in pixels(source) if not np.array_equal(image, self.pixels.get(at))]
            demand(bool(messages) or not wrong, f"different images at {wrong}")
        except UserError as error:
            return sentence(error, "127.0.0.1")
        return messages or ACCEPTED


class NamedModels:
    """A published model on a server: the cache holds the whole file, or none under its name."""

    def __init__(self, folder: Path) -> None:
        impatient()
        os.environ["SR_HOME"] = str(folder / "home")
        self.home, self.server = folder / "home", Server()
        self.content = zoo.default_file().read_bytes()[:100_000]
        self.server.files = {"m.pth": self.content}

    def __call__(self, rng: random.Random) -> str:
        shutil.rmtree(self.home, ignore_errors=True)
        self.server.disturb(rng)
        known = sha256(self.content).hexdigest()
        model = Published("m", 4, "free", len(self.content), known, f"{self.server.url}/m.pth", "a model")
        try:
            file = zoo.fetch(model)
        except UserError as error:
            demand(not zoo.file_of(model).exists(), "half a model is in the cache")
            return sentence(error, "127.0.0.1")
        demand(file.read_bytes() == self.content, "another model")
        return ACCEPTED
