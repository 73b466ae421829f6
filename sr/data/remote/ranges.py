"""Read parts of a remote file by range requests, to index a tar without its pixels."""

import io
from functools import partial
from typing import BinaryIO, cast

from sr.data.index import Choice, Entry
from sr.data.remote.download import Remote, retry, shown
from sr.data.remote.transport import CHUNK, TransientError, open_at, transport_errors
from sr.data.scan import scan_file

LEAST = 1 << 12  # bytes of a request: a header and the small members after it
NEAR = 1 << 16  # bytes that cost less time than a request


class RangeFile(io.RawIOBase):
    """A remote tar, or a block of it, as a file that tarfile can read; each request reads some bytes ahead.

    received: bytes so far. Raises UserError from `read`.
    """

    def __init__(self, shard: Remote) -> None:
        self._shard, self._base = shard, shard.start or 0
        self._place = self._at = self.received = 0
        self._ahead, self._tag, self._step = b"", "", LEAST
        self._size: int | None = None if shard.start is None else (shard.entry.bytes if shard.entry else 0)

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = offset + (self._place if whence == 1 else self.size if whence == 2 else 0)
        return self._place

    @property
    def size(self) -> int:
        if self._size is None:
            self._fetch(0, LEAST)
        assert self._size is not None
        return self._size

    def read(self, size: int = -1) -> bytes:
        stop = self.size if size < 0 else min(self._place + size, self.size)
        if self._place >= stop:
            return b""
        if not self._at <= self._place < stop <= self._at + len(self._ahead):
            self._fetch(self._place, stop - self._place)
        got = self._ahead[self._place - self._at : stop - self._at]
        self._place = stop
        return got

    def _fetch(self, start: int, size: int) -> None:
        """Fill the buffer. Where the next header is near, reading on costs less than another request."""
        near = self._at + len(self._ahead) <= start <= self._at + len(self._ahead) + NEAR and start > 0
        self._step = min(2 * self._step, CHUNK) if near else LEAST
        stop = start + max(size, self._step)
        stop = stop if self._size is None else min(stop, self._size)
        self._ahead = retry(self._shard.name, partial(self._received, self._base + start, self._base + stop))
        self._at = start

    def _received(self, start: int, stop: int) -> bytes:
        body = open_at(self._shard.name, start, self._tag, stop)
        try:
            if self._size is None:
                if body.size is None:
                    raise TransientError("the server does not state the size of the file")
                self._size = body.size
            stop = min(stop, self._base + self._size)
            parts: list[bytes] = []
            with transport_errors():
                while (missing := stop - start - sum(map(len, parts))) > 0 and (part := body.read(missing)):
                    parts.append(part)
        finally:
            body.close()
        content = b"".join(parts)
        self.received += len(content)
        if len(content) != stop - start:
            raise TransientError(f"received {len(content)} of {stop - start} bytes")
        self._tag = body.tag
        return content


def scan_remote(shard: Remote, choice: Choice) -> tuple[Entry, int]:
    """Index a remote tar, or a block of it, by its headers; return its entry and the bytes that were read."""
    file = RangeFile(shard)
    index = scan_file(cast(BinaryIO, file), shown(shard.name), choice, block=shard.start is not None)
    return index.entry, file.received
