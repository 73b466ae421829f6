"""Read remote files by HTTP, fsspec or a shell command. No retries at this layer."""

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
TIMEOUT = 60.0  # seconds without a byte (fsspec: without a block) until a connection counts as lost
PIPE = "pipe:"
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
RETRYABLE = 408, 425, 429  # client errors that may be temporary
ABSENT = 403, 404, 410  # S3 answers 403 for missing files where listing is not allowed


class TransientError(Exception):
    """A connection broke or returned unexpected content; a retry may succeed."""


class FileChanged(TransientError):
    """The file changed during the download."""


class PermanentError(Exception):
    """A retry cannot succeed. cause and fix: parts of the message. absent: the file is missing or may not be read."""

    def __init__(self, cause: str, fix: str, *, absent: bool = False) -> None:
        super().__init__(cause, fix)
        self.cause, self.fix, self.absent = cause, fix, absent


@dataclass
class Body:
    """The body of a response.

    start: offset of its first byte in the file. size: of the whole file, if known. tag: identifies the version of the
    file; "" if unknown.
    """

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
    """Remove user, password and query of every URL in a text."""
    return re.sub(r"(?<=://)[^/@\s]*@", "", re.sub(r"(\w+://[^\s?'\"]*)\?[^\s'\"]*", r"\1", text))


def open_at(name: str, start: int = 0, tag: str = "", stop: int | None = None) -> Body:
    """Open at `start` if ranges are supported and the version is still `tag`, else at the beginning.

    stop: read only the bytes from `start` to there; then a server without ranges is an error.

    Raises TransientError, FileChanged and PermanentError. Call `Body.read` inside `transport_errors()`.
    """
    with transport_errors():
        if name.startswith(PIPE):
            if stop is not None:
                raise PermanentError("a command has no ranges", "read its output whole (data.source.read: whole)")
            pipe = _Pipe(name[len(PIPE) :])
            return Body(pipe.read, pipe.close)
        return (_http if is_http(name) else _fsspec)(name, start, tag, stop)


def size_of(name: str) -> int:
    """Size of a remote file in bytes, by one request; 0 if it is not known without a download."""
    with suppress(TransientError, PermanentError), transport_errors():
        if name.startswith(PIPE):
            return 0
        if is_http(name):
            with urlopen(_request(name, "HEAD"), timeout=TIMEOUT) as response:
                return int(response.headers.get("Content-Length") or 0)
        system, path = file_system(name)
        return int(_with_timeout(partial(system.size, path)) or 0)
    return 0


def listing(pattern: str) -> list[str]:
    """The URLs that a glob matches, sorted. Raises TransientError and PermanentError."""
    with transport_errors():
        system, path = file_system(pattern)
        return sorted(system.unstrip_protocol(hit) for hit in _with_timeout(partial(system.glob, path)))


def write(name: str, content: bytes) -> None:
    """Write a file through fsspec. Raises TransientError and PermanentError."""
    with transport_errors():
        system, path = file_system(name)
        _with_timeout(partial(system.pipe_file, path, content))


@contextmanager
def transport_errors() -> Iterator[None]:
    """Turn any error of a connection into a TransientError or a PermanentError."""
    try:
        yield
    except (TransientError, PermanentError):
        raise
    except Exception as error:
        reason = error.reason if isinstance(error, URLError) and not isinstance(error, HTTPError) else error
        words = getattr(reason, "strerror", None) or getattr(reason, "msg", None) or str(reason)
        text = scrub(str(words)) or type(reason).__name__
        code = next((c for c in (getattr(reason, k, None) for k in ("code", "status")) if isinstance(c, int)), 0)
        if code == 416:
            raise FileChanged("the file became shorter") from None
        if 400 <= code < 500 and code not in RETRYABLE:
            raise _refused(code, f"HTTP {code}: {text}") from None
        if isinstance(reason, FileNotFoundError):
            raise _refused(404, "the file does not exist") from None
        if isinstance(reason, PermissionError):
            raise _refused(403, "permission denied") from None
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise PermanentError(text, "correct the certificate or the host's name") from None
        if isinstance(reason, ImportError | ValueError) and not isinstance(reason, UnicodeError):
            raise PermanentError(text, "correct the URL or install the missing package") from None
        if isinstance(reason, OSError | HTTPException | EOFError):
            raise TransientError(f"HTTP {code}: {text}" if code else text) from None
        raise TransientError(f"{type(reason).__name__}: {text}") from None


def _refused(code: int, cause: str) -> PermanentError:
    fix = "grant this machine read access" if code in (401, 403) else "correct the path or publish the file"
    return PermanentError(cause, fix, absent=code in ABSENT)


def _request(url: str, method: str = "GET") -> Request:
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise PermanentError("a URL with user and password would be saved with the run", "put them into ~/.netrc")
    headers = {"User-Agent": f"sr/{__version__}"}
    request = Request(quote(url, safe="!#$%&'()*+,/:;=?@[]~"), headers=headers, method=method)
    login = _login(parts.scheme, parts.hostname or "")
    if login:
        request.add_unredirected_header("Authorization", login)
    return request


def _http(url: str, start: int, tag: str, stop: int | None) -> Body:
    request = _request(url)
    if start or stop is not None:
        request.add_header("Range", f"bytes={start}-{'' if stop is None else stop - 1}")
        if tag:
            request.add_header("If-Range", tag)
    response = urlopen(request, timeout=TIMEOUT)
    headers = response.headers
    etag, size = headers.get("ETag", ""), headers.get("Content-Length")
    found = headers.get("Last-Modified", "") if not etag or etag.startswith("W/") else etag
    if response.status != 206 and stop is not None:
        response.close()
        if tag and found != tag:
            raise FileChanged("the file changed")
        raise PermanentError("the server does not send parts of files", "read them whole (data.source.read: whole)")
    if response.status != 206:
        return Body(response.read1, response.close, 0, int(size) if size else None, found)
    given = re.match(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
    if not given or int(given[1]) != start:
        response.close()
        raise FileChanged("the server sent another range than requested")
    return Body(response.read1, response.close, start, int(given[2]), found)


def _login(scheme: str, host: str) -> str:
    """The Authorization header for a host; "" if there is none.

    A bearer token comes from $SR_TOKEN_<HOST> (`SR_TOKEN_DATA_EXAMPLE_ORG` for data.example.org), for huggingface.co
    also from $HF_TOKEN; user and password from ~/.netrc or the file in $NETRC.
    """
    names = [f"SR_TOKEN_{re.sub('[^A-Z0-9]', '_', host.upper())}"] + ["HF_TOKEN"] * (host == "huggingface.co")
    token = next((os.environ[name] for name in names if os.environ.get(name)), "").strip()
    if token and scheme != "https" and host not in ("localhost", "127.0.0.1", "::1"):
        raise PermanentError(f"{names[0]} would be sent unencrypted", "use https, or unset the variable")
    if token:
        return f"Bearer {token}"
    with suppress(OSError, netrc.NetrcParseError):
        found = netrc.netrc(os.environ.get("NETRC")).hosts.get(host)
        if found:
            return "Basic " + b64encode(f"{found[0]}:{found[2]}".encode()).decode()
    return ""


def _fsspec(url: str, start: int, tag: str, stop: int | None) -> Body:
    system, path = file_system(url)
    found = _with_timeout(partial(system.ukey, path))
    if stop is not None:
        if tag and found != tag:
            raise FileChanged("the file changed")
        return Body(_Range(system, path, start, stop).read, lambda: None, start, system.size(path), found)
    file = _with_timeout(partial(system.open, path, "rb", block_size=8 * CHUNK, cache_type="readahead"))
    start = start if found == tag else 0
    file.seek(start)
    return Body(lambda size: _with_timeout(partial(file.read, size)), file.close, start, file.size, found)


class _Range:
    """A range of a file of fsspec, read by requests of 8 MB; its open files would read beyond the end."""

    def __init__(self, system: Any, path: str, start: int, stop: int) -> None:
        self._system, self._path, self._place, self._stop, self._ahead = system, path, start, stop, b""

    def read(self, size: int) -> bytes:
        if not self._ahead and self._place < self._stop:
            end = min(self._place + 8 * CHUNK, self._stop)
            self._ahead = _with_timeout(partial(self._system.cat_file, self._path, start=self._place, end=end))
            self._place += len(self._ahead)
        got, self._ahead = self._ahead[:size], self._ahead[size:]
        return got


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system for s3, gs, az, hf ...; its package finds credentials and endpoints."""
    import fsspec

    system, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return system, path


def _with_timeout(call: Callable[[], T]) -> T:
    """Return the result of a call; TransientError after TIMEOUT, since some file systems have no timeout."""
    outcome: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((call(), None))
        except Exception as error:
            outcome.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        result, error = outcome.get(timeout=TIMEOUT)
    except queue.Empty:
        raise TransientError(f"no answer for {TIMEOUT:.0f} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


class _Pipe:
    """The output of a shell command. Its stderr is that of the program."""

    def __init__(self, command: str) -> None:
        # In a new session: Ctrl-C reaches the trainer only, and `close` ends the command with its children.
        self._process = subprocess.Popen(
            command, shell=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stdout is not None
        self._out = self._process.stdout
        self._poll = select.poll()
        self._poll.register(self._out, select.POLLIN)

    def read(self, size: int) -> bytes:
        if not self._poll.poll(TIMEOUT * 1000):
            raise TransientError(f"the command wrote nothing for {TIMEOUT:.0f} s")
        chunk = os.read(self._out.fileno(), size)
        if not chunk:
            code = self._process.wait(TIMEOUT)
            if code in (126, 127):
                raise PermanentError(f"the command cannot be run (code {code})", "correct it or install its program")
            if code:
                raise TransientError(f"the command ended with code {code}")
        return chunk

    def close(self) -> None:
        self._out.close()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
