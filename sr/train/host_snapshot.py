"""A copy of tensors at one moment, in host memory and in safetensors layout, to write while training continues."""

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
PAGE = 4096  # O_DIRECT needs addresses, lengths and file offsets that are multiples of it
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
    """The tensors of one file. Its memory is reused by the next `take`, which must wait until this one is written.

    `tensors` are views of one buffer that holds the file's content including the header, so that writing makes no copy
    and the checksum needs one pass. Costs host memory of the size of the tensors (pinned for tensors on a GPU).
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._buffer, self._bytes = torch.empty(0, dtype=torch.uint8), 0
        self._staged: dict[str, Tensor] = {}
        self._event: torch.cuda.Event | None = None

    @torch.no_grad()
    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the values of `tensors`; they may change as soon as this returns.

        From a GPU in two steps: a copy on the GPU, which costs a few launches in the step's stream and the same amount
        of GPU memory until `arrive` has run; `arrive` then copies to the host while the next step computes.
        """
        kinds = {key: (value.dtype, value.shape) for key, value in tensors.items()}
        if kinds != {key: (value.dtype, value.shape) for key, value in self.tensors.items()}:
            self._allocate(tensors)
        far = {key: value for key, value in tensors.items() if value.is_cuda}
        self._staged = {key: torch.empty_like(value) for key, value in far.items()}
        for dtype in {value.dtype for value in far.values()}:  # foreach copies fuse tensors of one type only
            keys = [key for key, value in far.items() if value.dtype == dtype]
            torch._foreach_copy_([self._staged[key] for key in keys], [far[key] for key in keys])
        self._event = torch.cuda.current_stream(next(iter(far.values())).device).record_event() if far else None
        for key in tensors.keys() - far.keys():
            self.tensors[key].copy_(tensors[key])

    def arrive(self) -> None:
        """Copy staged tensors from the GPU on a separate stream and wait for them. Called by the writing thread."""
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
        self.tensors = {}  # free the old buffer before the new one is allocated
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

    size: the number of bytes that count; `content` then consists of whole pages and is written by O_DIRECT where
    possible. CRC-32 detects damage, which is its only purpose here, in a fraction of the time of SHA-256, on cores that
    the training uses too.
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
    """Write the first `size` bytes of whole pages to `path` by O_DIRECT and fsync; False where it is not supported.

    A checkpoint is not read soon, so that shards stay in the page cache instead; and copying into the cache would cost
    more processor time than the rest of the save.
    """
    flag = getattr(os, "O_DIRECT", 0)
    if not flag:
        return False
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | flag, 0o666)
        try:
            for part in _chunks(pages):
                if os.write(file, part) != len(part):  # the rest would not start at a page
                    return False
            os.ftruncate(file, size)
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        if error.errno == errno.EINVAL:  # a file system without O_DIRECT
            return False
        raise
    return True


def _chunks(content: memoryview) -> Iterator[memoryview]:
    return (content[start : start + CHUNK] for start in range(0, len(content), CHUNK))
