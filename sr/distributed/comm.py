"""Ranks, control messages between them outside the backward pass, and the handling of lost processes.

Control messages use a separate gloo process group. They are sent from host memory, so that an agreement such as
"stop after this step" does not wait for the accelerator's queue.
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

ALIKE_SECONDS = 3.0  # where rank 0 failed the same way and reported it, the launcher ends the other ranks meanwhile
T = TypeVar("T")


def rank() -> int:
    """This process's rank; 0 without a process group."""
    return td.get_rank() if td.is_initialized() else 0


def world() -> int:
    """The number of processes; 1 without a process group."""
    return td.get_world_size() if td.is_initialized() else 1


def is_main() -> bool:
    """Whether this is rank 0."""
    return rank() == 0


@functools.cache
def _control() -> Any:
    """The control group. The first call creates it and must be made by every rank."""
    return td.new_group(backend="gloo", timeout=timedelta(hours=24))  # rank 0 may make shards; the watchdog checks it


def gather(value: T) -> list[T]:
    """Return every rank's `value` (any picklable object), in rank order, on every rank. Collective."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    td.all_gather_object(values, value, group=_control())
    return values


class _MeanOverRanks(torch.autograd.Function):
    """All-reduce mean. Its gradient is the mean over ranks of the incoming gradients: the same operation."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        mean = x.clone()
        td.all_reduce(mean)
        return mean / world()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return _MeanOverRanks.apply(gradient)


def mean_over_ranks(x: torch.Tensor) -> torch.Tensor:
    """Return the mean of `x` (any shape, the same on all ranks) over all ranks, with gradient. Collective, also in
    backward.

    Where gradients are averaged over ranks afterwards, as in DDP, they equal those of one process with all samples.
    """
    return x if world() == 1 else _MeanOverRanks.apply(x)


def barrier() -> None:
    """Wait for all ranks. Collective."""
    if world() > 1:
        td.barrier(group=_control())


def leads_node() -> bool:
    """Whether this is the first process of its node, by the launcher's LOCAL_RANK."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


@contextmanager
def first_on_each_node() -> Iterator[None]:
    """Run the block on one process of each node before the others, for downloads into a cache. Collective."""
    leads = leads_node()
    if not leads:
        barrier()
    try:
        yield
    finally:
        if leads:
            barrier()


class Vote:
    """Asynchronous agreement: the result of one step is read at the next.

    Each rank calls `cast` once per step. It returns whether any rank's flag was set at the *previous* step, so that the
    all-reduce overlaps with the step and all ranks see the same answer at the same step.
    """

    def __init__(self) -> None:
        self._flag: torch.Tensor | None = None
        self._work: Any = None

    def cast(self, flag: bool) -> bool:
        """Send this step's flag and return the result of the previous step; with one process, `flag` itself."""
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
    """Run `work` on rank 0 while the others wait. If it fails there, every rank raises. Collective."""
    error: Exception | None = None
    if is_main():
        try:
            work()
        except Exception as caught:  # raised below, after the other ranks are informed
            error = caught
    message = gather(error and (str(error) or type(error).__name__))[0]
    if error is not None:
        raise error
    if message is not None:
        raise UserError(str(message))


def agree(work: Callable[[], T]) -> T:
    """Return what `work`, which is not collective, returns on this rank. All raise if one rank fails. Collective.

    For files that each process reads by itself: a disk may be missing on one machine of many.
    """
    error: Exception | None = None
    try:
        made = work()
    except (UserError, OSError) as caught:  # raised below, after the other ranks are informed
        error = caught
    messages = gather(error and f"rank {rank()} on {socket.gethostname()}: {error}")
    if error is not None:
        raise error
    for message in filter(None, messages):
        raise UserError(message)
    return made


# ---- lost processes --------------------------------------------------------------------------------------------------

_watchdog: Watchdog | None = None


def meet(timeout: float) -> None:
    """Wait for all processes of the launch, then start the watchdog (see sr.distributed.watchdog). Call it before the
    first process group is created.

    timeout: seconds that a step, its gradient exchange included, may take at most.
    """
    global _watchdog
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ and _watchdog is None:
        _watchdog = Watchdog(rank=int(os.environ["RANK"]), world=int(os.environ["WORLD_SIZE"]), timeout=timeout)
        _watchdog.meet()


@contextmanager
def watched(step: int, *, first: bool = False) -> Iterator[None]:
    """Run the block as step `step` under the watchdog: after the timeout, stacks are printed and the process ends.

    first: the first step after a start. It may compile, so its timeout is FIRST_STEP_FACTOR times as long.
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
    """Set the function that returns the place from which the run resumes, for the message about a lost process."""
    if _watchdog is not None:
        _watchdog.resume = where


def shutdown() -> None:
    """End the watch: processes may exit from now on. Collective."""
    barrier()
    if _watchdog is not None:
        _watchdog.shutdown()


def lost(error: Exception) -> tuple[str, int] | None:
    """The message and exit code for an error of a collective; None for other errors.

    gloo raises RuntimeError, as errors in the program do, so the watchdog decides: an error of a collective follows the
    end of another process, whose exit code is used. Waits about 10 s for its verdict where all processes run. Then only
    an error that starts with a source file of gloo is one of a collective.
    """
    if _watchdog is None or not isinstance(error, RuntimeError):  # DistError is one
        return None
    verdict = _watchdog.verdict()
    cause = " ".join(str(error).split())[:200]
    by_gloo = cause.startswith("[") and "/gloo/" in cause.partition("]")[0]
    if verdict is None and not by_gloo and not isinstance(error, td.DistError):
        return None
    late = f"a collective failed although all processes run ({cause}); check the network, or raise train.timeout"
    sentence = _watchdog.sentence(verdict or late)
    return sentence, _watchdog.code


def leave(message: str, code: int) -> NoReturn:
    """End this process of several and report the reason to the others."""
    if _watchdog is not None:
        _watchdog.report(message, code)
    if code != watchdog.LOST and os.environ.get("RANK", "0") != "0":
        time.sleep(ALIKE_SECONDS)
    watchdog.leave(message, code)
