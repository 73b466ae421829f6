"""The batches of a rank: an infinite stream that starts at any position."""

import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from sr.core.errors import UserError
from sr.data.batch import RawBatch, SubBatch
from sr.data.crops import Crops
from sr.data.mix import Sources

PREFETCH = 4  # batches that a worker makes ahead
GRACE_SECONDS = 300  # for the last step, its validation and its checkpoint


class Loader:
    """Micro-batches for one rank; over all ranks and `accumulate` micro-batches they are the same global batches.

    `batch_size` counts samples per optimizer step, over all ranks; a rank gets `micro_batch` at a time. Micro-batch
    k from `consumed` on holds positions consumed + (k * world + rank) * micro_batch + [0, micro_batch).
    The state is `consumed`, the samples that finished steps have used: whoever counts steps keeps it.
    """

    def __init__(
        self,
        source: Sources,
        *,
        seed: int,
        scale: int,
        gt_size: int,
        degrade_size: int,
        batch_size: int,
        accumulate: int = 1,
        workers: int = 0,
        flip: bool = True,
        rotate: bool = False,
        direction: str = "a_to_b",
        load_size: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.micro_batch = _micro_batch(batch_size, world, accumulate)
        self._crops = Crops(
            source,
            seed=seed,
            scale=scale,
            gt_size=gt_size,
            degrade_size=degrade_size,
            flip=flip,
            rotate=rotate,
            direction=direction,
            load_size=load_size,
        )
        self._seed, self._workers, self._rank, self._world = seed, workers, rank, world

    def batches(self, consumed: int = 0) -> Generator[RawBatch, None, None]:
        """Infinite. Raises UserError when the data cannot be read or a worker died."""
        loader: DataLoader = DataLoader(
            self._crops,
            batch_size=None,
            sampler=_Positions(consumed, self.micro_batch, self._rank, self._world),
            num_workers=self._workers,
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=PREFETCH if self._workers else None,
            worker_init_fn=_deaf,
            # Its own, or starting it would draw from the global generator, once more on every resume.
            generator=torch.Generator().manual_seed(self._seed),
        )
        batches = iter(loader)
        while True:
            with worker_deaths():
                content = next(batches)
            if isinstance(content, str):
                raise UserError(content)
            yield RawBatch([SubBatch(*group) for group in content["groups"]], content["bad"])


class _Positions(Sampler[list[int]]):
    """The positions of a rank's micro-batches, without end."""

    def __init__(self, consumed: int, size: int, rank: int, world: int) -> None:
        self._first, self._size, self._stride = consumed + rank * size, size, world * size

    def __iter__(self) -> Iterator[list[int]]:
        start = self._first
        while True:
            yield list(range(start, start + self._size))
            start += self._stride


def _deaf(worker: int) -> None:
    """A signal for the whole process group is the trainer's to answer: its last step still needs its workers.

    SIGTERM only puts the end off, because a trainer that crashes ends its workers by it and waits for them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE_SECONDS))


def _as_it_is(content: Any) -> Any:
    return content


@contextmanager
def worker_deaths() -> Iterator[None]:
    """Tell a user of a worker that died; torch may raise that anywhere in the main thread, in the middle of a step."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        said = " ".join(str(error).split()).rstrip(". ")
        raise UserError(
            f"{said}: the machine took it away, most likely for want of memory or of /dev/shm;"
            " use fewer data.workers or give the container more memory (docker: --shm-size)"
        ) from None


def _micro_batch(batch_size: int, world: int, accumulate: int) -> int:
    parts = world * accumulate
    if batch_size < 1 or batch_size % parts:
        below = max(batch_size // parts, 0) * parts
        sizes = f"{below} or {below + parts}" if below else f"{parts}"
        raise UserError(
            f"batch_size {batch_size} does not divide by {world} processes x {accumulate} accumulated;"
            f" use {sizes}, or other numbers of those"
        )
    return batch_size // parts
