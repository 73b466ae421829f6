"""Replay the forward and backward pass of each phase as a CUDA graph: one launch instead of thousands.

Everything else (degradation, optimizers, EMA, meter) runs between and after the graphs as in a step without them.
"""

import gc
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from sr.core.errors import first_line
from sr.data.batch import Batch
from sr.tasks import Phase, Task
from sr.train.model_optimizer import ModelOptimizer

WARM_UP = 1  # steps equal to the one before it, until recording: cuDNN has chosen its algorithms then
TOLERANCE = 0.02  # of the norm of the gradients; bf16 and atomic additions differ by less


class Recorded(NamedTuple):
    """A recorded phase. Its tensors hold new values after each replay."""

    graph: Any
    player: str
    losses: dict[str, Tensor]
    report: dict[str, Tensor]
    gradients: list[tuple[nn.Parameter, Tensor]]


class CudaGraph:
    """Records the kernels of a function. Graphs that are replayed in the order of recording share memory by `pool`."""

    def __init__(self, pool: Any) -> None:
        self.graph, self.pool = torch.cuda.CUDAGraph(), pool

    def record(self, work: Callable[[], Phase | None]) -> Phase | None:
        """Run `work` without executing its kernels. Raises what stopped it."""
        before, cause = torch.cuda.current_stream(), []
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*graph is empty")  # behind the last phase
                # Threads of the loader and of the saver may call CUDA meanwhile.
                with torch.cuda.graph(self.graph, pool=self.pool, capture_error_mode="thread_local"):
                    try:
                        return work()
                    except Exception as error:
                        cause.append(error)
                        raise
        except Exception as error:
            self._abandon(before)
            raise (cause.pop() if cause else error) from None  # ending the capture raises too and names no reason

    def _abandon(self, before: torch.cuda.Stream) -> None:
        """Undo what torch.cuda.graph keeps where ending a capture fails: its stream, its pool, its random generator."""
        torch.cuda.set_stream(before)
        with suppress(RuntimeError):  # torch has done it already
            torch._C._cuda_endAllocateToPool(before.device_index, self.pool)
        fresh = torch.Generator(before.device).graphsafe_get_state()
        torch.cuda.default_generators[before.device_index].graphsafe_set_state(fresh)

    def replay(self) -> None:
        self.graph.replay()


class StepGraph:
    """The phases of a step as graphs; recorded once the weights and shapes were the same for WARM_UP steps, and again
    after a scheduled weight changed. The first replay is compared with the same step without graphs.

    autocast: makes the context of the forward pass. reseed: called with the step before random numbers are drawn.
    make: called for each recording; returns what makes its graphs. has_room: whether the memory suffices for a second
    set of activations.
    """

    def __init__(
        self,
        task: Task,
        players: Mapping[str, ModelOptimizer],
        *,
        autocast: Callable[[], AbstractContextManager[Any]],
        reseed: Callable[[int], None],
        make: Callable[[], Callable[[], Any]],
        has_room: Callable[[], bool],
    ) -> None:
        self.task, self.players, self.autocast, self.reseed = task, players, autocast, reseed
        self.make, self.has_room = make, has_room
        self.recorded: list[Recorded] = []
        self.off = ""  # why graphs are not used
        self._key = self._last = None
        self._equal = 0
        self._batch: Batch | None = None
        self._ahead: Iterator[Phase] = iter(())

    def step(self, batch: Batch, step: int) -> Iterator[Recorded] | None:
        """Return the phases, each with its gradients in place when yielded; None: run this step without graphs."""
        constants = self.task.constants(step)
        if constants is None or self.off:
            return None
        key: Any = constants, *((x.shape, x.stride()) for x in _images(batch))
        self._equal = self._equal + 1 if key == self._last else 0
        self._last = key
        if key != self._key and (self._equal < WARM_UP or not self._record(batch, step, key)):
            return None
        return self._replayed(batch)

    def _replayed(self, batch: Batch) -> Iterator[Recorded]:
        assert self._batch is not None
        for mine, given in zip(_images(self._batch), _images(batch), strict=True):
            mine.copy_(given)
        for phase in self.recorded:
            phase.graph.replay()
            for parameter, gradient in phase.gradients:
                parameter.grad = gradient
            yield phase

    # ---- recording ---------------------------------------------------------------------------------------------------

    def _record(self, batch: Batch, step: int, key: Any) -> bool:
        """Record all phases; False, with the reason in `off`, where that is not possible."""
        self.recorded, self._key, self._batch = [], None, None
        if not self.has_room():
            return self._give_up("the memory does not suffice for a second set of activations")
        try:
            works = self._recorded(batch, step)
        except Exception as error:  # an error that is not due to recording occurs again in the step without graphs
            why = f"recording failed ({first_line(error)})"
        else:
            why = "" if works else "a replayed step has other gradients than one without graphs"
        for player in self.players.values():
            player.optimizer.zero_grad(set_to_none=True)
        self.reseed(step)
        if why:
            self.recorded, self._batch, self._ahead = [], None, iter(())
            gc.collect()  # the error's frames hold the activations
            return self._give_up(why)
        self._key = key
        tqdm.write(f"train.cuda_graph: {len(self.recorded)} graphs recorded at step {step + 1}")
        return True

    def _recorded(self, batch: Batch, step: int) -> bool:
        """Record all phases. Returns whether a replay has the gradients of this step without graphs."""
        lq, gt = batch.lq.clone(), batch.gt.clone()
        self._batch = Batch(lq=lq, gt=gt, target=gt if batch.target is batch.gt else batch.target.clone())
        before = self._gradients(step)
        self.reseed(step + 1)  # so that the gradients differ where random numbers of the host are part of the graph
        self.recorded = list(self._phases(step))
        with self._unchanged_buffers():
            self.reseed(step)
            after = {(p.player, n): g.clone() for p in self._replayed(batch) for n, (_, g) in enumerate(p.gradients)}
        return _close(before, after)

    def _phases(self, step: int) -> Iterator[Recorded]:
        make = self.make()
        with self._unchanged_buffers():
            first = True
            while True:
                graph = make()
                phase = graph.record(partial(self._run, step, first))
                if phase is None:
                    return
                first = False
                yield Recorded(graph, phase.player, _values(phase.losses), _values(phase.report), self._taken(phase))

    def _run(self, step: int, first: bool) -> Phase | None:
        """Run the forward and backward pass of the next phase of the recorded batch."""
        if first:
            assert self._batch is not None
            self._ahead = iter(self.task.step(self._batch, step))
        with self.autocast():
            phase = next(self._ahead, None)
        if phase is not None and phase.losses:
            total = torch.stack([loss.float() for loss in phase.losses.values()]).sum()
            self.players[phase.player].backend.backward(total, last=True)
        return phase

    def _taken(self, phase: Phase) -> list[tuple[nn.Parameter, Tensor]]:
        """Take the gradients from the parameters of a phase's player."""
        parameters = self.players[phase.player].backend.parameters.values()
        taken = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
        for parameter, _ in taken:
            parameter.grad = None
        return taken

    def _gradients(self, step: int) -> dict[tuple[str, int], Tensor]:
        """Return the gradients of this step without graphs."""
        found: dict[tuple[str, int], Tensor] = {}
        with self._unchanged_buffers():
            self.reseed(step)
            first = True
            while (phase := self._run(step, first)) is not None:
                first = False
                found |= {(phase.player, n): gradient for n, (_, gradient) in enumerate(self._taken(phase))}
        return found

    def _unchanged_buffers(self) -> "_Buffers":
        return _Buffers([buffer for player in self.players.values() for buffer in player.raw.buffers()])

    def _give_up(self, why: str) -> bool:
        self.off = why
        tqdm.write(f"train.cuda_graph: off, {why}")
        return False


class _Buffers(AbstractContextManager[None]):
    """Restores buffers, such as the vectors of spectral norm, after a pass that does not count."""

    def __init__(self, buffers: list[Tensor]) -> None:
        self.buffers, self.values = buffers, [buffer.clone() for buffer in buffers]

    def __exit__(self, *error: object) -> None:
        for buffer, value in zip(self.buffers, self.values, strict=True):
            buffer.copy_(value)


def _images(batch: Batch) -> list[Tensor]:
    return [batch.lq, batch.gt, *([] if batch.target is batch.gt else [batch.target])]


def _values(terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in terms.items()}


def _close(one: Mapping[Any, Tensor], other: Mapping[Any, Tensor]) -> bool:
    if one.keys() != other.keys():
        return False
    names = sorted({player for player, _ in one})
    for name in names:
        pairs = [(one[key].float(), other[key].float()) for key in one if key[0] == name]
        apart = torch.stack([(a - b).norm() for a, b in pairs]).norm()
        within = apart <= TOLERANCE * torch.stack([a.norm() for a, _ in pairs]).norm()
        if bool(~within):  # also where a value is not finite
            return False
    return True
