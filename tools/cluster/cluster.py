"""Simulate hosts on one machine: network namespaces on a bridge, each with its own host name and address. Needs root.

    with Cluster(2) as cluster:
        launcher = cluster.start(0, ["accelerate", "launch", ...], env={}, log=Path("node0.log"))
        cluster.link(1, up=False)

All names contain the process id of the creator, so several clusters can exist at the same time, and the next cluster
removes what a crashed one left.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_NAME = re.compile(r"\bsr(?:ns|br|ve)(\d+)n\d+\b")
_ENTER = 'hostname "$0" && mount --bind "$1" /etc/hosts && shift && exec "$@"'  # exec: the process id stays the same


class Cluster:
    """`nodes` hosts. Host i has the name node<i> and the address 10.77.0.<i+1>; all hosts share the disk."""

    def __init__(self, nodes: int) -> None:
        self.nodes = range(nodes)
        self._hosts = Path(tempfile.gettempdir(), f"srns{os.getpid()}.hosts")

    def __enter__(self) -> "Cluster":
        sweep()
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _build(self) -> None:
        names = "".join(f"{address(node)} node{node}\n" for node in self.nodes)
        self._hosts.write_text(f"127.0.0.1 localhost\n{names}")
        bridge = _called("br", 0)
        _ip("link", "add", bridge, "type", "bridge")
        _ip("link", "set", bridge, "up")
        for node in self.nodes:
            inside, outside = _called("ns", node), _called("ve", node)
            _ip("netns", "add", inside)
            _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", inside)
            _ip("link", "set", outside, "master", bridge, "up")
            _ip("-n", inside, "addr", "add", f"{address(node)}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", inside, "link", "set", device, "up")

    def close(self) -> None:
        for node in self.nodes:
            self.kill(node)
        _remove(os.getpid())
        self._hosts.unlink(missing_ok=True)

    def start(
        self, node: int, command: Sequence[str], *, env: Mapping[str, str], log: Path
    ) -> "subprocess.Popen[bytes]":
        """Start `command` on a host, pinned to one core. The returned process is the command itself."""
        cores = sorted(os.sched_getaffinity(0))
        entered = ["taskset", "-c", str(cores[node % len(cores)])]
        entered += ["ip", "netns", "exec", _called("ns", node), "unshare", "--mount", "--uts", "sh", "-c", _ENTER]
        with log.open("wb") as output:
            return subprocess.Popen(
                [*entered, f"node{node}", str(self._hosts), *command],
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def pids(self, node: int) -> list[int]:
        """Return the ids of all processes of a host."""
        found = subprocess.run(["ip", "netns", "pids", _called("ns", node)], capture_output=True, text=True)
        return [int(pid) for pid in found.stdout.split()]

    def workers(self, node: int) -> list[int]:
        """Return the processes of a host that have a rank, without their child processes."""
        ranked = {pid for pid in self.pids(node) if b"\0LOCAL_RANK=" in _read(f"/proc/{pid}/environ")}
        return sorted(pid for pid in ranked if _parent(pid) not in ranked)

    def kill(self, node: int) -> None:
        """Send SIGKILL to all processes of a host."""
        while pids := self.pids(node):
            for pid in pids:
                send(pid, signal.SIGKILL)
            time.sleep(0.02)

    def link(self, node: int, *, up: bool) -> None:
        """Connect or disconnect a host at the bridge; the interface inside of the host stays up."""
        _ip("link", "set", _called("ve", node), "up" if up else "down")


def address(node: int) -> str:
    return f"10.77.0.{node + 1}"


def send(pid: int, number: int) -> None:
    """Send a signal to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def forbidden() -> str | None:
    """Return why no cluster can be created here, or None."""
    for program in ("ip", "unshare", "mount", "hostname", "taskset"):
        if shutil.which(program) is None:
            return f"the program '{program}' is missing"
    if os.geteuid():
        return "network namespaces need root"
    try:
        with Cluster(1) as cluster, tempfile.TemporaryDirectory() as folder:
            code = cluster.start(0, ["true"], env={}, log=Path(folder, "log")).wait(30)
            output = Path(folder, "log").read_text().strip()
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        return str(error)
    return output or "a program does not start in a namespace" if code else None


def sweep() -> None:
    """Remove the namespaces and links of clusters whose process has ended."""
    for pid in {int(pid) for pid in _NAME.findall(_listed())}:
        if not Path(f"/proc/{pid}").exists():
            _remove(pid)


def _listed() -> str:
    lists = (["ip", "netns", "list"], ["ip", "-o", "link"])
    return "".join(subprocess.run(command, capture_output=True, text=True).stdout for command in lists)


def _remove(owner: int) -> None:
    for name in sorted({found[0] for found in _NAME.finditer(_listed()) if int(found[1]) == owner}, reverse=True):
        if name.startswith("srns"):
            for pid in subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split():
                send(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        else:  # deleting one end of a veth deletes the other one
            subprocess.run(["ip", "link", "del", name], capture_output=True)


def _called(kind: str, node: int) -> str:
    return f"sr{kind}{os.getpid()}n{node}"


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def _parent(pid: int) -> int:
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return int(fields[1]) if fields else 0
