"""How the processes of a launch find each other before any process group is made: all of them, alive, of one attempt.

Rank 0 listens and leaves its port in the launcher's store; the others call it ("hello RANK NONCE HOST") and it answers
when all are there ("welcome PORT HOST"). The port is of a new store, for the process groups of this attempt: a launcher
that restarts its processes keeps its own, and in it the addresses of those that died.
"""

import os
import secrets
import socket
import time
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed import TCPStore

MEETING_SECONDS = 300.0  # from the first process to the last: machines start at different speeds
_KEY = "sr/meeting"


@dataclass
class Peer:
    """The other end of a link: to rank 0, or on rank 0 to everyone. name: "rank 2 on node-c (10.0.0.3)"."""

    name: str
    link: socket.socket
    heard: float
    rest: bytes = b""
    closed: bool = False

    def send(self, line: str) -> None:
        try:
            self.link.send(line.encode() + b"\n")
        except BlockingIOError:  # its buffer is full: it does not read, and its silence will tell
            pass
        except OSError:
            self.closed = True


class Rendezvous:
    """Takes MASTER_ADDR and MASTER_PORT from the environment. peers: who came, by rank; but for rank 0, only rank 0."""

    def __init__(self, *, rank: int, world: int) -> None:
        self.rank, self.world = rank, world
        self.address, self.port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self.peers: dict[int, Peer] = {}
        self._stores: list[TCPStore] = []  # what this process serves, it serves to its end

    def hold(self) -> None:
        """Wait for all, without limit, and leave the new store's port in the environment.

        Raises RuntimeError where the launcher's store fails.
        """
        serves = self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        if not serves:
            _connect(self.address, self.port).close()  # patiently: a store logs pages about a port without answer
        patience = timedelta(seconds=MEETING_SECONDS)
        store = TCPStore(self.address, self.port, None, serves, patience, wait_for_workers=False, multi_tenant=True)
        self._stores.append(store)
        port = self._receive(store) if self.rank == 0 else self._call(store)
        os.environ |= {"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "False"}

    def _receive(self, store: TCPStore) -> int:
        """Rank 0: wait for the others, then welcome them with the port of the new store."""
        own = TCPStore("localhost", 0, None, True, wait_for_workers=False, multi_tenant=True)
        self._stores.append(own)
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        with socket.create_server(("", 0), family=family, backlog=self.world, dualstack_ipv6=dual) as server:
            nonce = secrets.token_hex(8)
            store.set(_KEY, f"{server.getsockname()[1]} {nonce}")
            while len(self.peers) < self.world - 1:
                link, (host, *_) = server.accept()
                link.settimeout(5)
                kind, _, text = _read_line(link).partition(" ")
                rank, _, told = text.partition(" ")
                if kind != "hello" or not told.startswith(f"{nonce} ") or not rank.isdigit():
                    link.close()
                    continue
                name = f"rank {rank} on {told.removeprefix(f'{nonce} ')} ({host.removeprefix('::ffff:')})"
                self.peers[int(rank)] = Peer(name, link, 0)  # once more after a restart: the new one counts
        for peer in self.peers.values():
            peer.send(f"welcome {own.port} {socket.gethostname()}")
        return own.port

    def _call(self, store: TCPStore) -> int:
        """The others: call rank 0 until it welcomes; what the store says first may be of an attempt that is over."""
        while True:
            port, nonce = store.get(_KEY).decode().split()
            try:
                link = socket.create_connection((self.address, int(port)), timeout=5)
                link.settimeout(None)
                link.sendall(f"hello {self.rank} {nonce} {socket.gethostname()}\n".encode())
                kind, _, text = _read_line(link).partition(" ")
            except OSError:
                kind = ""
            if kind == "welcome":
                own, _, host = text.partition(" ")
                self.peers[0] = Peer(f"rank 0 on {host} ({link.getpeername()[0]})", link, 0)
                return int(own)
            time.sleep(0.5)

    def missing(self) -> str:
        if self.rank == 0:
            ranks = [str(rank) for rank in range(1, self.world) if rank not in self.peers]
            who = f"{len(ranks)} of {self.world} processes did not come: rank {', '.join(ranks[:8])}"
            who += ", ..." if ranks[8:] else ""
        else:
            who = f"rank 0 at {self.address}:{self.port} did not answer"
        return f"{who}, in {MEETING_SECONDS:.0f} s (every machine must reach every other on any port)"


def _connect(address: str, port: int) -> socket.socket:
    while True:
        try:
            return socket.create_connection((address, port), timeout=5)
        except OSError:
            time.sleep(0.5)


def _read_line(link: socket.socket) -> str:
    """One line from a blocking socket; "" where it ends or fails."""
    data = b""
    try:
        while not data.endswith(b"\n"):
            piece = link.recv(1)
            if not piece:
                return ""
            data += piece
    except OSError:
        return ""
    return data.decode(errors="replace").rstrip("\n")
