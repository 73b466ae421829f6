"""Ranks, the few words they exchange outside the backward pass, and what happens when one of them is gone.

Control messages travel on a group of their own over gloo: they carry host memory, so agreeing on
"shall we stop?" never waits for the accelerator's queue.
"""

import functools
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as td

from sr.core.errors import UserError
from sr.distributed import watchdog
from sr.distributed.watchdog import Watchdog

ALIKE_SECONDS = 3.0  # where rank 0 failed alike and has told, the launcher ends its neighbours meanwhile
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
    return td.new_group(backend="gloo", timeout=timedelta(hours=24))  # rank 0 may be making shards; its pulse tells


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


def leads_node() -> bool:
    """Whether this process is the first of its node, as its launcher says."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


@contextmanager
def first_on_each_node() -> Iterator[None]:
    """One process of each node goes through the block before its others do: for downloads into a cache. Collective."""
    leads = leads_node()
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


def agree(work: Callable[[], T]) -> T:
    """What `work`, which is not collective, returns here. Where one rank cannot do it, none goes on. Collective.

    For what each process reads by itself: a disk may be missing on one machine of many.
    """
    error: Exception | None = None
    try:
        made = work()
    except (UserError, OSError) as caught:  # raised below, once the others know
        error = caught
    told = gather(error and f"rank {rank()} on {socket.gethostname()}: {error}")
    if error is not None:
        raise error
    for sentence in filter(None, told):
        raise UserError(sentence)
    return made


# ---- when one is gone ------------------------------------------------------------------------------------------------

_watchdog: Watchdog | None = None


def meet(timeout: float) -> None:
    """Before the first process group: wait for all processes of the launch; from then on watch them (see
    sr.distributed.watchdog).

    timeout: seconds; the longest that an exchange of gradients and a step may take.
    """
    global _watchdog
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ and _watchdog is None:
        _watchdog = Watchdog(rank=int(os.environ["RANK"]), world=int(os.environ["WORLD_SIZE"]), timeout=timeout)
        _watchdog.meet()


@contextmanager
def watched(step: int, *, first: bool = False) -> Iterator[None]:
    """The block is step `step`: past the timeout every thread's stack is printed and the process ends.

    first: it is the first step after a start, which compiles and takes FIRST_STEP_FACTOR times as long at most.
    """
    if _watchdog is None:
        yield
        return
    _watchdog.place = f"at step {step}"
    _watchdog.watch(first=first)
    try:
        yield
    finally:
        _watchdog.unwatch()


def resumes(where: Callable[[], str]) -> None:
    """`where` knows from where a run continues that ends because a process is gone."""
    if _watchdog is not None:
        _watchdog.resume = where


def shutdown() -> None:
    """All is done: nobody is missed from here on. Collective."""
    barrier()
    if _watchdog is not None:
        _watchdog.shutdown()


def lost(error: Exception) -> tuple[str, int] | None:
    """The message and exit code for an error of a collective; None for other errors.

    gloo raises RuntimeError as a defect does, so the watchdog decides: an error of a collective follows the end of
    another process, whose exit code is taken. Waits for its verdict, about 10 s where all processes live.
    """
    if _watchdog is None or not isinstance(error, RuntimeError):  # DistError is one
        return None
    verdict = _watchdog.verdict()
    if verdict is None and not isinstance(error, td.DistError):
        return None
    cause = " ".join(str(error).split())[:200]
    late = f"a collective failed although all processes run ({cause}); raise train.timeout"
    sentence = _watchdog.sentence(verdict or late)
    return sentence, _watchdog.code


def leave(message: str, code: int) -> NoReturn:
    """End this process of several, and let the others know why."""
    if _watchdog is not None:
        _watchdog.last_words(message, code)
    if code != watchdog.LOST and os.environ.get("RANK", "0") != "0":
        time.sleep(ALIKE_SECONDS)
    watchdog.leave(message, code)
