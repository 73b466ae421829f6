"""Three ways to the bytes of a remote file: HTTP, what fsspec knows, and a command. One try each; no patience here."""

import netrc
import os
import queue
import re
import select
import signal
import ssl
import subprocess
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

from sr.core.version import __version__

T = TypeVar("T")
CHUNK = 1 << 20
PATIENCE = 60.0  # seconds without a byte (of fsspec: without a block) after which a connection counts as lost
PIPE = "pipe:"
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
LATER = 408, 425, 429  # of the answers that blame the request, those that may change
ABSENT = 403, 404, 410  # S3 forbids what is not there to those who may not list


class Lost(Exception):
    """A connection that broke, or brought something else than it should; it may do better the next time."""


class Changed(Lost):
    """The file is no longer the one whose beginning came before."""


class Hopeless(Exception):
    """What no wait mends: cause and fix. absent: there is no such file, or it is kept secret."""

    def __init__(self, cause: str, fix: str, *, absent: bool = False) -> None:
        super().__init__(cause, fix)
        self.cause, self.fix, self.absent = cause, fix, absent


@dataclass
class Body:
    """What a server or a command sends. start: where in the file its first byte belongs. size: of the whole file, if
    that was told. tag: another one where the file is another one; "" for not known."""

    read: Callable[[int], bytes]
    close: Callable[[], None]
    start: int = 0
    size: int | None = None
    tag: str = ""


def is_remote(name: str) -> bool:
    return name.startswith(PIPE) or URL.match(name) is not None


def is_http(name: str) -> bool:
    return name.lower().startswith(("http://", "https://"))


def scrub(text: str) -> str:
    """Without the user, password and query of any URL in it."""
    return re.sub(r"(?<=://)[^/@\s]*@", "", re.sub(r"(\w+://[^\s?'\"]*)\?[^\s'\"]*", r"\1", text))


def open_at(name: str, start: int = 0, tag: str = "") -> Body:
    """From `start` on if that can be done and the file is still the one of `tag`, else from its beginning.

    Raises Lost, Changed and Hopeless; `Body.read` is to be called inside `losses()`.
    """
    with losses():
        if name.startswith(PIPE):
            pipe = _Pipe(name[len(PIPE) :])
            return Body(pipe.read, pipe.close)
        return _http(name, start, tag) if is_http(name) else _fsspec(name, start, tag)


def size_of(name: str) -> int:
    """Bytes of a remote file, by one request; 0 where that is not known without fetching it."""
    with suppress(Lost, Hopeless), losses():
        if name.startswith(PIPE):
            return 0
        if is_http(name):
            with urlopen(_request(name, "HEAD"), timeout=PATIENCE) as response:
                return int(response.headers.get("Content-Length") or 0)
        system, path = _file_system(name)
        return int(_within(partial(system.size, path)) or 0)
    return 0


def listing(pattern: str) -> list[str]:
    """The URLs that a glob matches, sorted. Raises Lost and Hopeless."""
    with losses():
        system, path = _file_system(pattern)
        return sorted(system.unstrip_protocol(hit) for hit in _within(partial(system.glob, path)))


@contextmanager
def losses() -> Iterator[None]:
    """Whatever goes wrong with a connection, as Lost or Hopeless."""
    try:
        yield
    except (Lost, Hopeless):
        raise
    except Exception as error:
        reason = error.reason if isinstance(error, URLError) and not isinstance(error, HTTPError) else error
        words = getattr(reason, "strerror", None) or getattr(reason, "msg", None) or str(reason)
        said = scrub(str(words)) or type(reason).__name__
        code = next((c for c in (getattr(reason, k, None) for k in ("code", "status")) if isinstance(c, int)), 0)
        if code == 416:
            raise Changed("the file is shorter than it was") from None
        if 400 <= code < 500 and code not in LATER:
            raise _refused(code, f"HTTP {code}: {said}") from None
        if isinstance(reason, FileNotFoundError):
            raise _refused(404, "it is not there") from None
        if isinstance(reason, PermissionError):
            raise _refused(403, "it may not be read") from None
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise Hopeless(said, "correct the certificate or the host's name") from None
        if isinstance(reason, ImportError | ValueError) and not isinstance(reason, UnicodeError):
            raise Hopeless(said, "correct the URL or install what is missing") from None
        if isinstance(reason, OSError | HTTPException | EOFError):
            raise Lost(f"HTTP {code}: {said}" if code else said) from None
        raise Lost(f"{type(reason).__name__}: {said}") from None


def _refused(code: int, cause: str) -> Hopeless:
    fix = "give this machine the right to read it" if code in (401, 403) else "correct the path or publish the file"
    return Hopeless(cause, fix, absent=code in ABSENT)


def _request(url: str, method: str = "GET") -> Request:
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise Hopeless("options are recorded with the run and its models", "put user and password into ~/.netrc")
    headers = {"User-Agent": f"sr/{__version__}"}
    request = Request(quote(url, safe="!#$%&'()*+,/:;=?@[]~"), headers=headers, method=method)
    login = _login(parts.hostname or "")
    if login:
        request.add_unredirected_header("Authorization", login)
    return request


def _http(url: str, start: int, tag: str) -> Body:
    request = _request(url)
    if start:
        request.add_header("Range", f"bytes={start}-")
        if tag:
            request.add_header("If-Range", tag)
    response = urlopen(request, timeout=PATIENCE)
    headers = response.headers
    etag, size = headers.get("ETag", ""), headers.get("Content-Length")
    tag = headers.get("Last-Modified", "") if not etag or etag.startswith("W/") else etag
    if response.status != 206:
        return Body(response.read1, response.close, 0, int(size) if size else None, tag)
    given = re.match(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
    if not given or int(given[1]) != start:
        response.close()
        raise Changed("the server sent another part than asked for")
    return Body(response.read1, response.close, start, int(given[2]), tag)


def _login(host: str) -> str:
    """The Authorization header out of ~/.netrc (or the file in $NETRC), where it names the host."""
    with suppress(OSError, netrc.NetrcParseError):
        found = netrc.netrc(os.environ.get("NETRC")).hosts.get(host)
        if found:
            return "Basic " + b64encode(f"{found[0]}:{found[2]}".encode()).decode()
    return ""


def _fsspec(url: str, start: int, tag: str) -> Body:
    system, path = _file_system(url)
    found = _within(partial(system.ukey, path))
    file = _within(partial(system.open, path, "rb", block_size=8 * CHUNK, cache_type="readahead"))
    start = start if found == tag else 0
    file.seek(start)
    return Body(lambda size: _within(partial(file.read, size)), file.close, start, file.size, found)


def _file_system(url: str) -> tuple[Any, str]:
    """fsspec's for s3, gs, az, hf, ...; keys and endpoints come from where its packages look for them."""
    import fsspec

    system, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return system, path


def _within(call: Callable[[], T]) -> T:
    """The call's result, or Lost if it takes longer than PATIENCE: not every file system gives up by itself."""
    outcome: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((call(), None))
        except Exception as error:
            outcome.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        result, error = outcome.get(timeout=PATIENCE)
    except queue.Empty:
        raise Lost(f"no answer for {PATIENCE:.0f} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


class _Pipe:
    """What a shell command writes. Its complaints go where the program's own go."""

    def __init__(self, command: str) -> None:
        # A session of its own: Ctrl-C is the trainer's to answer, and the command ends with all it has started.
        self._process = subprocess.Popen(
            command, shell=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stdout is not None
        self._out = self._process.stdout
        self._poll = select.poll()
        self._poll.register(self._out, select.POLLIN)

    def read(self, size: int) -> bytes:
        if not self._poll.poll(PATIENCE * 1000):
            raise Lost(f"the command wrote nothing for {PATIENCE:.0f} s")
        chunk = os.read(self._out.fileno(), size)
        if not chunk:
            code = self._process.wait(PATIENCE)
            if code in (126, 127):
                raise Hopeless(f"the command cannot be run (code {code})", "correct it, or install its program")
            if code:
                raise Lost(f"the command ended with code {code}")
        return chunk

    def close(self) -> None:
        self._out.close()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
