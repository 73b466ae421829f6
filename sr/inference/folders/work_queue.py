"""The processes of a launch at one list of jobs: each takes the next when it is free, rank 0 tells of all of them.

What they share lies in the store of the launch (`sr.distributed.rendezvous`): the list, a counter of what is taken,
one of what is
done, and at the end what became of each process's part. So nothing is claimed on a disk, and a process that dies leaves
nothing behind: the launch ends (`sr.distributed.watchdog`), and the next one does what has no record.
"""

import functools
import os
import pickle
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, Generic, TypeVar

from torch.distributed import TCPStore

from sr.distributed import comm

TIMEOUT = 600.0  # seconds; a process that is silent for half of it is gone
PIECE = 4 << 20  # bytes of a message to the store
AHEAD = 64  # jobs at most that a process takes before their turn

T = TypeVar("T")


class WorkQueue(Generic[T]):
    """One process's view. Without a launcher it is alone."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.world = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
        self.jobs: Sequence[T] = ()
        self._taken = self._done = self._shared = 0
        self._store: TCPStore | None = None
        self._name = ""
        if self.world > 1:
            self._store, self._name = _joined()

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, value: Any) -> Any:
        """Rank 0's value on every rank, in the order of the calls."""
        if self._store is not None:
            self._shared += 1
            if not self.is_main:
                return self._receive(f"shared/{self._shared}")
            self._send(f"shared/{self._shared}", value)
        return value

    def begin(self, jobs: Sequence[T]) -> None:
        """The list, which is rank 0's."""
        self.jobs = self.share(jobs)

    def take(self) -> T | None:
        """The next job that nobody has; None when there are no more."""
        turn = self._taken if self._store is None else self._store.add(f"{self._name}/taken", 1) - 1
        self._taken = turn + 1
        return self.jobs[turn] if turn < len(self.jobs) else None

    @property
    def ahead(self) -> int:
        """How many jobs to hold at once: few near the end, so that all end together."""
        return max(min((len(self.jobs) - self._taken) // (2 * self.world), AHEAD), 2)

    def tick(self, count: int = 1) -> None:
        """So many jobs ended, well or not."""
        self._done = self._done + count if self._store is None else self._store.add(f"{self._name}/done", count)

    @property
    def done(self) -> int:
        """Of all processes, as far as this one knows; rank 0 of several asks the store."""
        if self._store is not None and self.is_main:
            self._done = self._store.add(f"{self._name}/done", 0)
        return self._done

    def gather(self, part: Any) -> Iterator[Any]:
        """Every process's part, on rank 0, which waits for them; the others leave theirs and get nothing."""
        if self.is_main:
            yield part
            for rank in range(1, self.world):
                yield self._receive(f"part/{rank}")
        else:
            self._send(f"part/{self.rank}", part)

    def shutdown(self) -> None:
        """This process is done, and nobody is to miss it."""
        if self._store is not None:
            comm.shutdown()

    def _send(self, key: str, value: Any) -> None:
        assert self._store is not None
        data = pickle.dumps(value)
        pieces = [data[first : first + PIECE] for first in range(0, len(data), PIECE)]
        for number, piece in enumerate(pieces):
            self._store.set(f"{self._name}/{key}/{number}", piece)  # type: ignore[arg-type]
        self._store.set(f"{self._name}/{key}", str(len(pieces)))

    def _receive(self, key: str) -> Any:
        """Waits as long as rank 0 lives. What lies there is of this launch's own processes."""
        assert self._store is not None
        name = f"{self._name}/{key}"
        while not self._store.check([name]):
            time.sleep(0.1)  # in steps: a wait inside the store would not hear Ctrl-C
        return pickle.loads(b"".join(self._store.get(f"{name}/{n}") for n in range(int(self._store.get(name)))))


_calls = 0


def _joined() -> tuple[TCPStore, str]:
    """The launch's store, and a name in it for this call: all processes make the same calls."""
    global _calls
    _calls += 1
    return _store(), f"sr/crew/{_calls}"


@functools.cache
def _store() -> TCPStore:
    comm.meet(TIMEOUT)
    comm.resumes(lambda: "what is missing in the output folder")
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(address, port, None, False, timedelta(seconds=TIMEOUT), wait_for_workers=False)
