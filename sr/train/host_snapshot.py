"""Tensors as they are at one moment, in host memory in the form of a safetensors file: training goes on meanwhile."""

import errno
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from sr.core.errors import UserError

CHUNK = 16 << 20  # bytes written and checked at a time, without holding the interpreter
PAGE = 4096  # what disks are written by past the cache: addresses, lengths and places in the file are multiples of it
TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class Snapshot:
    """The tensors of one file. Its memory is kept for the next `take`, which must wait until this one is used up.

    `tensors` are views of one buffer that is the file's content, header and all, so that writing copies nothing and one
    pass over it checks it too. Costs: host memory as large as the tensors (pinned where they lie on a GPU).
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._buffer, self._bytes = torch.empty(0, dtype=torch.uint8), 0
        self._staged: dict[str, Tensor] = {}
        self._event: torch.cuda.Event | None = None

    @torch.no_grad()
    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy what `tensors` hold now; they may change as soon as this returns.

        From a GPU in two goes: a copy beside them, a few launches in the queue of the step that wrote them and as much
        GPU memory until `arrive` has run; the way to the host is `arrive`'s, while the next step computes.
        """
        kinds = {key: (value.dtype, value.shape) for key, value in tensors.items()}
        if kinds != {key: (value.dtype, value.shape) for key, value in self.tensors.items()}:
            self._allocate(tensors)
        far = {key: value for key, value in tensors.items() if value.is_cuda}
        self._staged = {key: torch.empty_like(value) for key, value in far.items()}
        for dtype in {value.dtype for value in far.values()}:  # fused only among tensors of one type
            keys = [key for key, value in far.items() if value.dtype == dtype]
            torch._foreach_copy_([self._staged[key] for key in keys], [far[key] for key in keys])
        self._event = torch.cuda.current_stream(next(iter(far.values())).device).record_event() if far else None
        for key in tensors.keys() - far.keys():
            self.tensors[key].copy_(tensors[key])

    def arrive(self) -> None:
        """Wait for what comes from a GPU, on a stream of its own. Called from the thread that writes."""
        if self._event is None:
            return
        stream = torch.cuda.Stream(next(iter(self._staged.values())).device)
        stream.wait_event(self._event)
        with torch.cuda.stream(stream):
            for key, value in self._staged.items():
                self.tensors[key].copy_(value, non_blocking=True)
        stream.synchronize()
        self._staged, self._event = {}, None

    def write(self, path: Path) -> str:
        """Write the file, wait until it is on the disk, and return its CRC-32 in hex."""
        return write(path, self._buffer.numpy().data, self._bytes)

    def _allocate(self, tensors: Mapping[str, Tensor]) -> None:
        """Lay out the file: the header that safetensors defines, then the tensors, widest type first (alignment)."""
        header, views, end = {}, {}, 0
        for key, value in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):
            if value.dtype not in TYPES:
                raise UserError(f"{key} is {value.dtype}, which a safetensors file cannot hold; use another optimizer")
            start, end = end, end + value.numel() * value.element_size()
            header[key] = {"dtype": TYPES[value.dtype], "shape": list(value.shape), "data_offsets": [start, end]}
            views[key] = (start, end)
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-(8 + len(text)) % PAGE)
        content = len(text).to_bytes(8, "little") + text
        self._bytes = len(content) + end
        pinned = any(value.is_cuda for value in tensors.values())
        self.tensors = {}  # the old buffer goes before the new one comes
        self._buffer = torch.empty(0, dtype=torch.uint8)
        room = torch.zeros(self._bytes + 2 * PAGE, dtype=torch.uint8, pin_memory=pinned)
        start = -room.data_ptr() % PAGE
        self._buffer = room[start : start + self._bytes + -self._bytes % PAGE]
        self._buffer[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        own = self._buffer[len(content) :]
        for key, (start, end) in views.items():
            self.tensors[key] = own[start:end].view(tensors[key].dtype).view(tensors[key].shape)


def write(path: Path, content: bytes | memoryview, size: int | None = None) -> str:
    """Write `content` to `path`, wait until it is on the disk, and return its CRC-32 in hex.

    size: how many of its bytes count; it then consists of whole pages, and goes past the system's cache where it can.
    CRC-32 finds damage, which is all that is asked of it, and takes a fraction of the time of SHA-256: time that a
    training on the same cores would have to do without.
    """
    pages = memoryview(content)
    counted = pages[:size]
    if size is None or not _write_past_cache(path, pages, size):
        with path.open("wb") as file:
            for part in _chunks(counted):
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
    crc = 0
    for part in _chunks(counted):
        crc = zlib.crc32(part, crc)
    return f"{crc:08x}"


def _write_past_cache(path: Path, pages: memoryview, size: int) -> bool:
    """Write the first `size` bytes of whole pages to `path` and wait for the disk; False where that is not to be had.

    Nobody reads a checkpoint soon, the shards that are read again stay in the cache, and to copy into it costs more of
    a processor than all the rest.
    """
    flag = getattr(os, "O_DIRECT", 0)
    if not flag:
        return False
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | flag, 0o666)
        try:
            for part in _chunks(pages):
                if os.write(file, part) != len(part):  # what is left would not begin at a page
                    return False
            os.ftruncate(file, size)
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        if error.errno == errno.EINVAL:  # a file system that has no such thing
            return False
        raise
    return True


def _chunks(content: memoryview) -> Iterator[memoryview]:
    return (content[start : start + CHUNK] for start in range(0, len(content), CHUNK))
