"""The work queue of a launch: each process takes the next job when it is free, and rank 0 collects the results.

The processes share the list of jobs, counters of taken and finished jobs, and the results through the store of the
launch (`sr.distributed.rendezvous`). Nothing is claimed on disk, so a process that dies leaves no claims: the watchdog
(`sr.distributed.watchdog`) ends the launch, and the next launch does the jobs that have no record.
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

TIMEOUT = 600.0  # seconds; a process that is silent for half as long counts as lost
PIECE = 4 << 20  # bytes per message to the store
AHEAD = 64  # jobs that a process takes in advance, at most

T = TypeVar("T")


class WorkQueue(Generic[T]):
    """The view of one process. Without a launcher it is the only one."""

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
        """Return the value of rank 0 on every rank. All ranks make the same calls in the same order."""
        if self._store is not None:
            self._shared += 1
            if not self.is_main:
                return self._receive(f"shared/{self._shared}")
            self._send(f"shared/{self._shared}", value)
        return value

    def begin(self, jobs: Sequence[T]) -> None:
        """Set the list of jobs to that of rank 0."""
        self.jobs = self.share(jobs)

    def take(self) -> T | None:
        """The next job that no process has taken; None when there are no more."""
        turn = self._taken if self._store is None else self._store.add(f"{self._name}/taken", 1) - 1
        self._taken = turn + 1
        return self.jobs[turn] if turn < len(self.jobs) else None

    @property
    def ahead(self) -> int:
        """How many jobs to hold at once: few near the end, so that all processes end together."""
        return max(min((len(self.jobs) - self._taken) // (2 * self.world), AHEAD), 2)

    def tick(self, count: int = 1) -> None:
        """Count finished jobs, whether they succeeded or failed."""
        self._done = self._done + count if self._store is None else self._store.add(f"{self._name}/done", count)

    @property
    def done(self) -> int:
        """Finished jobs: of all processes on rank 0, else of this process."""
        if self._store is not None and self.is_main:
            self._done = self._store.add(f"{self._name}/done", 0)
        return self._done

    def gather(self, part: Any) -> Iterator[Any]:
        """Yield the part of every process on rank 0, which waits for them. The others send theirs and yield nothing."""
        if self.is_main:
            yield part
            for rank in range(1, self.world):
                yield self._receive(f"part/{rank}")
        else:
            self._send(f"part/{self.rank}", part)

    def shutdown(self) -> None:
        """Mark this process as finished."""
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
        """Wait for a value while rank 0 lives. Unpickling is safe: only processes of this launch write to the store."""
        assert self._store is not None
        name = f"{self._name}/{key}"
        while not self._store.check([name]):
            time.sleep(0.1)  # in steps: a wait inside the store would block Ctrl-C
        return pickle.loads(b"".join(self._store.get(f"{name}/{n}") for n in range(int(self._store.get(name)))))


_calls = 0


def _joined() -> tuple[TCPStore, str]:
    """The store of the launch, and a key prefix for this call. All processes make the same calls."""
    global _calls
    _calls += 1
    return _store(), f"sr/queue/{_calls}"


@functools.cache
def _store() -> TCPStore:
    comm.meet(TIMEOUT)
    comm.resumes(lambda: "what is missing in the output folder")
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(address, port, None, False, timedelta(seconds=TIMEOUT), wait_for_workers=False)
