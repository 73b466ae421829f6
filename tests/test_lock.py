"""Locks: refused while held, released by a crash, waited for, and file systems without locks."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sr.core.errors import UserError
from sr.core.lock import Lock

HOLD = r"""
import os, sys, time
from sr.core.lock import Lock
lock = Lock(sys.argv[1], used="it is used", fix="wait")
lock.acquire()
if os.fork() == 0:  # a loader worker that outlives its parent
    lock.release()
    os.write(1, f"{os.getpid()}\n".encode())  # one write: both processes use this pipe
    time.sleep(60)
os.write(1, b"held\n")
time.sleep(60)
"""


def lock(path: Path, *, wait: bool = False) -> Lock:
    return Lock(path, used=f"{path.parent} is being used", fix="use another folder", wait=wait)


def test_a_lock_held_by_another_process_is_refused_until_that_process_crashes(tmp_path: Path) -> None:
    path = tmp_path / "run" / ".lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    lines = [holder.stdout.readline().strip() for _ in range(2)]
    child = int(next(line for line in lines if line != "held"))
    try:
        expected = rf"run is being used by process {holder.pid} on host {socket.gethostname()} since .*; use another"
        with pytest.raises(UserError, match=expected):
            lock(path).acquire()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with lock(path):  # although the forked child still runs
            assert json.loads(path.read_text())["pid"] == os.getpid()
    finally:
        os.kill(child, signal.SIGKILL)
        holder.kill()
        holder.stdout.close()
    assert not path.exists()


def test_a_lock_excludes_within_one_process(tmp_path: Path) -> None:
    with lock(tmp_path / ".lock"), pytest.raises(UserError, match=f"process {os.getpid()}"):
        lock(tmp_path / ".lock").acquire()
    with lock(tmp_path / ".lock"):
        pass


def test_one_of_many_threads_gets_the_lock(tmp_path: Path) -> None:
    start = threading.Barrier(4)

    def contend(mine: Lock) -> bool:
        start.wait()
        try:
            mine.acquire()
        except UserError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        for n in range(20):
            locks = [lock(tmp_path / str(n) / ".lock") for _ in range(4)]
            assert sum(pool.map(contend, locks)) == 1


def test_the_failure_of_a_thread_leaves_the_lock_of_another_in_place(tmp_path: Path) -> None:
    """A process loses its record locks by closing any file of that name."""
    (tmp_path / "alias").symlink_to(tmp_path, target_is_directory=True)
    with lock(tmp_path / ".lock"):
        for folder in (tmp_path, tmp_path / "alias"):
            with pytest.raises(UserError, match=f"process {os.getpid()}"):
                lock(folder / ".lock").acquire()
        take = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        command = [sys.executable, "-c", take, str(tmp_path / ".lock")]
        other = subprocess.run(command, capture_output=True, check=False)
        assert b"BlockingIOError" in other.stderr


def test_a_forked_child_takes_the_lock_that_its_parent_has_released(tmp_path: Path) -> None:
    mine = lock(tmp_path / ".lock")
    mine.acquire()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(read, 1)
        try:
            lock(tmp_path / ".lock").acquire()
        except UserError:
            os._exit(1)
        os._exit(0)
    mine.release()
    os.write(write, b"x")
    assert os.waitpid(child, 0)[1] == 0
    os.close(read)
    os.close(write)


def test_waiting_for_a_lock(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = lock(tmp_path / ".lock")
    first.acquire()
    timer = threading.Timer(0.3, first.release)
    timer.start()
    began = time.monotonic()
    with lock(tmp_path / ".lock", wait=True):
        assert time.monotonic() - began >= 0.25
    timer.join()
    assert capsys.readouterr().err.count("sr: waiting") == 1


def test_without_locks_the_record_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "lockf", unsupported)
    path = tmp_path / ".lock"
    with lock(path):
        assert path.is_file()
    ended = subprocess.Popen(["true"])
    ended.wait()
    path.write_text(json.dumps({"pid": ended.pid, "host": socket.gethostname()}))
    with lock(path):  # its process has ended
        pass
    path.write_text(json.dumps({"pid": os.getppid(), "host": socket.gethostname()}))
    with pytest.raises(UserError, match=f"process {os.getppid()}"):
        lock(path).acquire()
    path.write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    with pytest.raises(UserError, match="on host elsewhere"):
        lock(path).acquire()
