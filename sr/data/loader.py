"""Batches for one rank, as an infinite iterator that starts at any position."""

import signal
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from copy import copy
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from sr.core.errors import UserError
from sr.data.batch import RawBatch, SubBatch
from sr.data.crops import Crops
from sr.data.mix import Sources
from sr.distributed.watchdog import LOST

PREFETCH = 4  # batches that a worker makes ahead
GRACE_SECONDS = 300  # for the last step, its validation and its checkpoint


class Loader:
    """Micro-batches for one rank. The global batches do not depend on the number of ranks, `accumulate` or `workers`.

    `batch_size` is the number of samples per optimizer step, over all ranks; a rank gets `micro_batch` at a time.
    Micro-batch k after `consumed` holds positions consumed + (k * world + rank) * micro_batch + [0, micro_batch).
    crop: the parameters of `Crops`. The only state is `consumed`, the number of samples used by finished steps, which
    the trainer keeps.
    """

    def __init__(
        self,
        source: Sources,
        *,
        seed: int,
        batch_size: int,
        accumulate: int = 1,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        **crop: Any,
    ) -> None:
        self.micro_batch = _micro_batch(batch_size, world, accumulate)
        self._crops = Crops(source, seed=seed, **crop)
        self._seed, self._workers, self._rank, self._world = seed, workers, rank, world

    def batches(self, consumed: int = 0) -> Generator[RawBatch, None, None]:
        """Yield micro-batches without end. Raises UserError if the data cannot be read, and WorkerLost."""
        workers: list[BaseProcess] = []
        loader: DataLoader = DataLoader(
            self._crops,
            batch_size=None,
            sampler=_Positions(consumed, self.micro_batch, self._rank, self._world),
            num_workers=self._workers,
            collate_fn=_unchanged,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=PREFETCH if self._workers else None,
            worker_init_fn=_ignore_signals,
            multiprocessing_context=_recording(workers) if self._workers else None,
            # A separate generator, since starting workers would otherwise draw from the global one at every resume.
            generator=torch.Generator().manual_seed(self._seed),
        )
        batches = iter(loader)
        try:
            while True:
                start = time.perf_counter()
                with worker_deaths():
                    content = next(batches)
                waited = time.perf_counter() - start
                if isinstance(content, UserError):
                    raise content
                yield RawBatch([SubBatch(*group) for group in content["groups"]], content["bad"], waited)
        finally:
            del batches  # ends the workers now; the traceback of an error would keep them
            for worker in workers:  # one that waits for a server would be waited for at exit
                worker.kill()


class _Positions(Sampler[list[int]]):
    """The positions of the micro-batches of a rank, without end."""

    def __init__(self, consumed: int, size: int, rank: int, world: int) -> None:
        self._first, self._size, self._stride = consumed + rank * size, size, world * size

    def __iter__(self) -> Iterator[list[int]]:
        start = self._first
        while True:
            yield list(range(start, start + self._size))
            start += self._stride


def _recording(workers: list[BaseProcess]) -> BaseContext:
    """The default context of multiprocessing, except that it adds each process to `workers`."""
    default = get_context()

    def process(*args: Any, **kwargs: Any) -> BaseProcess:
        workers.append(default.Process(*args, **kwargs))
        return workers[-1]

    context = copy(default)
    setattr(context, "Process", process)  # noqa: B010  (a class attribute to mypy)
    return context


def _ignore_signals(worker: int) -> None:
    """Leave signals for the process group to the trainer, whose last step still needs its workers.

    SIGTERM ends a worker after GRACE_SECONDS, since a trainer that crashes sends it and waits.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE_SECONDS))


def _unchanged(content: Any) -> Any:
    return content


class WorkerLost(UserError):
    """A worker was killed. The exit code lets a scheduler start the run again."""

    exit_code = LOST


@contextmanager
def worker_deaths() -> Iterator[None]:
    """Turn the death of a worker into WorkerLost; torch may raise it anywhere in the main thread."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        reason = " ".join(str(error).split()).rstrip(". ")
        raise WorkerLost(
            f"{reason}: most likely the machine ran out of memory or of /dev/shm; lower data.workers, or give the"
            " container more memory (docker: --shm-size)"
        ) from None


def _micro_batch(batch_size: int, world: int, accumulate: int) -> int:
    parts = world * accumulate
    if batch_size < 1 or batch_size % parts:
        below = max(batch_size // parts, 0) * parts
        sizes = f"{below} or {below + parts}" if below else f"{parts}"
        raise UserError(
            f"data.batch_size {batch_size} is not a multiple of {world} processes x train.accumulate {accumulate};"
            f" set it to {sizes}, or change the number of processes or train.accumulate"
        )
    return batch_size // parts
