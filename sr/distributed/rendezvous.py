"""Rendezvous of the processes of a launch before any process group is created: all of them, of the same attempt.

Rank 0 listens and publishes its port in the launcher's store. The others connect ("hello RANK NONCE HOST"), and rank 0
answers when all are connected ("welcome PORT HOST"). That port belongs to a new store for the process groups of this
attempt: a launcher that restarts its processes keeps its own store, with the addresses of the processes that ended.
"""

import os
import secrets
import socket
import time
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed import TCPStore

RENDEZVOUS_SECONDS = 300.0  # from the first process to the last: machines start at different speeds
_KEY = "sr/meeting"


@dataclass
class Peer:
    """A connection to another process: to rank 0, or on rank 0 to each other rank.

    name: such as "rank 2 on node-c (10.0.0.3)". heard: time of the last heartbeat. rest: an incomplete line.
    """

    name: str
    link: socket.socket
    heard: float
    rest: bytes = b""
    closed: bool = False

    def send(self, line: str) -> None:
        """Send a line without blocking."""
        try:
            self.link.send(line.encode() + b"\n")
        except BlockingIOError:  # the peer does not read; its missing heartbeat will be noticed
            pass
        except OSError:
            self.closed = True


class Rendezvous:
    """Reads MASTER_ADDR and MASTER_PORT from the environment.

    peers: the connected processes by rank; on ranks other than 0, rank 0 alone.
    """

    def __init__(self, *, rank: int, world: int) -> None:
        self.rank, self.world = rank, world
        self.address, self.port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self.peers: dict[int, Peer] = {}
        self._stores: list[TCPStore] = []  # referenced for as long as this process runs

    def wait(self) -> None:
        """Wait for all processes without a limit and set MASTER_PORT to the port of the new store.

        Raises RuntimeError where the launcher's store fails.
        """
        serves = self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        if not serves:
            _connect(self.address, self.port).close()  # retries: TCPStore logs pages about a closed port
        patience = timedelta(seconds=RENDEZVOUS_SECONDS)
        store = TCPStore(self.address, self.port, None, serves, patience, wait_for_workers=False, multi_tenant=True)
        self._stores.append(store)
        port = self._receive(store) if self.rank == 0 else self._call(store)
        os.environ |= {"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "False"}

    def _receive(self, store: TCPStore) -> int:
        """Rank 0: wait for the others, then send them the port of the new store."""
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
                rank, _, sender = text.partition(" ")
                if kind != "hello" or not sender.startswith(f"{nonce} ") or not rank.isdigit():
                    link.close()
                    continue
                name = f"rank {rank} on {sender.removeprefix(f'{nonce} ')} ({host.removeprefix('::ffff:')})"
                self.peers[int(rank)] = Peer(name, link, 0)  # the last connection counts after a restart
        for peer in self.peers.values():
            peer.send(f"welcome {own.port} {socket.gethostname()}")
        return own.port

    def _call(self, store: TCPStore) -> int:
        """The others: connect to rank 0 until it answers; the store may still hold the port of an earlier attempt."""
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
        """Which processes did not connect in time."""
        if self.rank == 0:
            ranks = [str(rank) for rank in range(1, self.world) if rank not in self.peers]
            who = f"{len(ranks)} of {self.world} processes did not connect: rank {', '.join(ranks[:8])}"
            who += ", ..." if ranks[8:] else ""
        else:
            who = f"rank 0 at {self.address}:{self.port} did not answer"
        return f"{who}, in {RENDEZVOUS_SECONDS:.0f} s (every machine must reach every other on any port)"


def _connect(address: str, port: int) -> socket.socket:
    """Connect, with retries until it succeeds."""
    while True:
        try:
            return socket.create_connection((address, port), timeout=5)
        except OSError:
            time.sleep(0.5)


def _read_line(link: socket.socket) -> str:
    """Read one line from a blocking socket; "" at its end or on an error."""
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
