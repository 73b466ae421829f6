"""Ranks, and the few words they exchange outside the backward pass.

Control messages travel on a group of their own over gloo: they carry host memory, so agreeing on
"shall we stop?" never waits for the accelerator's queue.
"""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as td

from sr.errors import UserError

T = TypeVar("T")


def rank() -> int:
    return td.get_rank() if td.is_initialized() else 0


def world() -> int:
    return td.get_world_size() if td.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


@functools.cache
def _control() -> Any:
    """The control group; made by the first call, which every rank must reach together."""
    return td.new_group(backend="gloo", timeout=timedelta(hours=24))  # rank 0 may be making shards


def gather(value: T) -> list[T]:
    """Every rank's `value` (any picklable object), in rank order, on every rank. Collective."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    td.all_gather_object(values, value, group=_control())
    return values


class _MeanOverRanks(torch.autograd.Function):
    """What one rank's value does to every rank's loss comes back as the mean of their gradients: the same operation."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        mean = x.clone()
        td.all_reduce(mean)
        return mean / world()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _MeanOverRanks.apply(gradient)


def mean_over_ranks(x: torch.Tensor) -> torch.Tensor:
    """The mean of `x` (any shape, the same on all) over all ranks, with gradient. Collective, in backward too.

    Where gradients are averaged over ranks afterwards, as DDP does, they are those of one process with all samples.
    """
    return x if world() == 1 else _MeanOverRanks.apply(x)


def barrier() -> None:
    if world() > 1:
        td.barrier(group=_control())


@contextmanager
def first_on_each_node() -> Iterator[None]:
    """One process of each node goes through the block before its others do: for downloads into a cache. Collective."""
    leads = int(os.environ.get("LOCAL_RANK", "0")) == 0
    if not leads:
        barrier()
    try:
        yield
    finally:
        if leads:
            barrier()


class Vote:
    """Agreeing without the wait: the answer of one step is read at the next.

    Each rank calls `cast` once a step; it returns whether any rank's flag was up at the *previous* step,
    so the message travels while the step computes and all ranks see the same answer at the same step.
    """

    def __init__(self) -> None:
        self._flag: torch.Tensor | None = None
        self._work: Any = None

    def cast(self, flag: bool) -> bool:
        if world() == 1:
            return flag
        answer = False
        if self._work is not None and self._flag is not None:
            self._work.wait()
            answer = bool(self._flag.item())
        self._flag = torch.tensor(int(flag))
        self._work = td.all_reduce(self._flag, op=td.ReduceOp.MAX, group=_control(), async_op=True)
        return answer


def on_main(work: Callable[[], object]) -> None:
    """Run `work` on rank 0 while the others wait; where it fails there, every rank raises. Collective."""
    error: Exception | None = None
    if is_main():
        try:
            work()
        except Exception as caught:  # raised below, once the others know
            error = caught
    told = gather(error and (str(error) or type(error).__name__))[0]
    if error is not None:
        raise error
    if told is not None:
        raise UserError(str(told))
