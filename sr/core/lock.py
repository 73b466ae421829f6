"""A lock file: one process at a time uses a folder, and others learn which process that is."""

import contextlib
import errno
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

from sr.core.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

POLL_SECONDS = 0.2
WINDOWS_BYTE = 1 << 30
_UNSUPPORTED = errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL  # file systems without locks
# Record locks do not conflict within one process, and it loses them by closing any file of that name. So the locks of
# this process are kept here, and their files are not opened again. A forked child drops its parent's.
_held: dict[str, dict[str, Any]] = {}
_trying = threading.RLock()


def _forget() -> None:
    _held.clear()
    _trying.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_trying.acquire, after_in_parent=_trying.release, after_in_child=_forget)


class Lock:
    """Exclusive use of something on disk, for as long as the `with` block (or `acquire` to `release`) lasts.

    The kernel releases the lock when its process ends, however it ends; forked children do not inherit it. It is a
    POSIX record lock, which also works between machines on NFS. On a file system without locks the record in the file
    is used instead: if a process on another machine has crashed, remove the file by hand.

    Args:
        path: the lock file. Its folder is created; the file is removed by `release`.
        used: what the holder does with what, such as "runs/tiny is being trained in". The start of the error message.
        fix: what the user can do, such as "wait until it ends or use another `name`". The end of the error message.
        wait: wait for the holder instead of raising UserError.
    """

    def __init__(self, path: str | Path, *, used: str, fix: str, wait: bool = False) -> None:
        self.path, self._used, self._fix, self._wait = Path(os.path.realpath(path)), used, fix, wait
        self._file: BinaryIO | None = None
        self._owner = 0

    def acquire(self) -> None:
        """Acquire the lock. Raises UserError naming the holder's process, host and start time."""
        reported = False
        while not self._try():
            sentence = f"{self._used} by {self._holder()}"
            if not self._wait:
                raise UserError(f"{sentence}; {self._fix}")
            if not reported:
                print(f"sr: waiting: {sentence}", file=sys.stderr, flush=True)
                reported = True
            time.sleep(POLL_SECONDS)

    def release(self) -> None:
        """Release the lock; does nothing in a process that does not hold it, such as a fork of the holder."""
        if self._file is None or self._owner != os.getpid():
            return
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)  # while the lock is held: `_try` notices a file that was replaced
        self._file.close()
        self._file = None
        _held.pop(str(self.path), None)

    def __enter__(self) -> "Lock":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _try(self) -> bool:
        with _trying:
            return str(self.path) not in _held and self._lock_file()

    def _lock_file(self) -> bool:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file: BinaryIO = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        try:
            _lock(file)
            free = os.path.samestat(os.fstat(file.fileno()), os.stat(self.path))  # else: released and removed meanwhile
        except FileNotFoundError:
            free = False
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN, *_UNSUPPORTED):
                file.close()
                raise
            free = error.errno in _UNSUPPORTED and not self._recorded_alive()
        if not free:
            file.close()
            return False
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        record = {"pid": os.getpid(), "host": socket.gethostname(), "started": started}
        file.truncate()
        file.write(json.dumps(record).encode())
        file.flush()
        os.fsync(file.fileno())  # another machine may read it
        self._file, self._owner = file, os.getpid()
        _held[str(self.path)] = record
        return True

    def _record(self) -> dict[str, Any]:
        try:
            with _trying:
                record = _held.get(str(self.path)) or json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def _recorded_alive(self) -> bool:
        """Whether the process in the record may still run: on this machine its pid is checked."""
        record = self._record()
        if record.get("host") != socket.gethostname():
            return bool(record)
        try:
            os.kill(int(record["pid"]), 0)
        except (ProcessLookupError, KeyError, ValueError, TypeError):
            return False
        except PermissionError:
            pass
        return True

    def _holder(self) -> str:
        record = self._record()
        if not record:
            return f"another process (see {self.path})"
        return f"process {record.get('pid')} on host {record.get('host')} since {record.get('started')}"


def _lock(file: BinaryIO) -> None:
    """Lock the file without waiting. Raises OSError with EACCES or EAGAIN where another process holds the lock."""
    if fcntl is not None:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    import msvcrt

    file.seek(WINDOWS_BYTE)  # Windows keeps other processes from reading what is locked, and the record is read
    msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    file.seek(0)
