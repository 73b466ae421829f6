"""The loop: update, log, validate, save, stop together. A run is one call of `Engine.run`."""

import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from sr.core.errors import UserError
from sr.core.signals import Stopped, signals
from sr.data.batch import Batch, RawBatch
from sr.data.loader import worker_deaths
from sr.distributed import comm
from sr.distributed.rng import reseed
from sr.evaluate.metrics import better
from sr.evaluate.validate import Results
from sr.tasks import Task
from sr.train import checkpoint, diagnostics, replica_check
from sr.train.async_saver import AsyncSaver
from sr.train.ema import EMA
from sr.train.model_optimizer import PRECISIONS, ModelOptimizer
from sr.train.tracker import Meter, Tracker

BAR = "g/pixel", "g/perceptual", "g/gan", "d/real", "d/fake"  # what the progress bar has room for


@dataclass(frozen=True)
class TrainSettings:
    """When things happen, in optimizer steps, and where the run lives."""

    folder: Path
    total_steps: int
    batch_size: int
    seed: int = 0
    accumulate: int = 1
    precision: str = "fp32"
    check_ranks_every: int = 1000
    log_every: int = 100
    validate_every: int = 5000
    save_every: int = 5000
    keep: int = 3
    fallback: bool = False
    log_samples: bool = False
    best: str = "psnr_y"
    max_bad_fraction: float = 0.01
    identity: Mapping[str, Any] = field(default_factory=dict)


class Trainer:
    """Owns the loop and the position in the data; everything else is handed in.

    batches(consumed): this rank's endless micro-batches from a global sample position on.
    prepare(raw): the micro-batch on the device, degraded. evaluate(net): the validation table, the same on all ranks.
    export(weights, path, step): writes the weights that other programs open, in a thread. record(): notes what this
    run is, once it is known that it may go on in its folder.
    """

    def __init__(
        self,
        *,
        task: Task,
        players: Mapping[str, ModelOptimizer],
        ema: EMA,
        batches: Callable[[int], Generator[RawBatch, None, None]],
        prepare: Callable[[RawBatch], Batch],
        evaluate: Callable[[nn.Module], Results] | None,
        export: Callable[[Mapping[str, Tensor], Path, int], None],
        record: Callable[[], None],
        plan: TrainSettings,
    ) -> None:
        self.task, self.players, self.ema, self.plan = task, players, ema, plan
        self.batches, self.prepare, self.evaluate = batches, prepare, evaluate
        self.record = record
        self.saver = AsyncSaver(plan.folder / "checkpoints", keep=plan.keep, export=export)
        self.step = self.consumed = self.bad = 0
        self.used: list[tuple[int, list[int]]] = []
        self.best: dict[str, Any] = {}
        self.device = next(iter(players.values())).accelerator.device
        self.meter, self.diagnosis = Meter(), diagnostics.Diagnosis()

    def run(self) -> None:
        """Train from wherever the run folder stands to `total_steps`. Raises Stopped after SIGTERM or SIGINT."""
        plan = self.plan
        comm.resumes(lambda: f"step {max(checkpoint.steps(plan.folder / 'checkpoints'), default=0)}")
        self.resume()
        comm.on_main(self.record)
        if comm.is_main():
            ways = ", ".join(f"{name} by {player.backend.way}" for name, player in self.players.items())
            tqdm.write(f"{comm.world()} x {self.device.type}: {ways}")
        tracker = Tracker(plan.folder, resume_step=self.step)
        bar = tqdm(total=plan.total_steps, initial=self.step, disable=not comm.is_main(), unit="step", mininterval=1.0)
        since, logged, vote = time.monotonic(), self.step, comm.Vote()
        stream = closing(self.batches(self.consumed))
        with (
            closing(tracker),
            closing(self.saver),
            bar,
            worker_deaths(),
            signals() as received,
            stream as batches,
        ):
            while self.step < plan.total_steps:
                with comm.watched(self.step + 1):
                    self.train_step(batches)
                    replica_check.check_ranks(self.players, self.ema, step=self.step, every=plan.check_ranks_every)
                    stop = vote.cast(bool(received))
                bar.update()
                validate = self._due(plan.validate_every) and self.evaluate is not None
                save = self._due(plan.save_every) or stop
                if self._due(plan.log_every) or validate or save:
                    with comm.watched(self.step):
                        self.log(tracker, bar, samples=(self.step - logged) * plan.batch_size, since=since)
                    if validate:
                        self.validate(tracker)
                    if save:
                        self.save()
                    since, logged = time.monotonic(), self.step
                if stop and self.step < plan.total_steps:
                    self.saver.wait()
                    raise self._stopped(received)
            self.saver.wait()

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.plan.total_steps

    def train_step(self, batches: Iterator[RawBatch]) -> None:
        """One optimizer step of every player; `accumulate` micro-batches, one gradient exchange."""
        for micro in range(self.plan.accumulate):
            raw = next(batches)
            self.bad += len(raw.bad)
            for report in raw.bad:
                tqdm.write(f"bad sample {report}")
            if self.plan.log_samples:
                self.used.append((self.step + 1, [place for group in raw.groups for place in group.positions]))
            last = micro == self.plan.accumulate - 1
            reseed(self.plan.seed, self.step, micro)
            with ExitStack() as window:
                for player in self.players.values():
                    window.enter_context(player.no_sync(last))
                pair = self.prepare(raw)
                with _tuned():
                    self._phases(pair, last)
        self.ema.update(step=self.step)
        self.step += 1
        self.consumed += self.plan.batch_size

    def _phases(self, batch: Batch, last: bool) -> None:
        phases = self.task.step(batch, self.step)
        while True:
            with self._autocast():
                phase = next(phases, None)
            if phase is None:
                return
            if not phase.losses:  # every weight is still 0, on all ranks alike
                continue
            player, tag = self.players[phase.player], phase.player[0]
            report = dict(phase.report)
            measure = last and (self.step + 1) % self.plan.log_every == 0
            rest = None
            if measure:
                measured, rest = diagnostics.shares(phase)
                report |= measured
                if phase.output is not None and phase.target is not None:
                    report |= diagnostics.looks(phase.output, phase.target)
            total = torch.stack([loss.float() for loss in phase.losses.values()]).sum()
            if rest is not None and self.plan.precision != "fp16":  # whose range only the scaler of `total` watches
                total = rest
            norm = player.update(total / self.plan.accumulate, step=self.step, last=last, measure=measure)
            report |= {} if norm is None else {"grad_norm": norm}
            for values, checked in ((phase.losses, True), (report, False)):
                tagged = {f"{tag}/{name}": value for name, value in values.items()}
                self.meter.add(tagged, step=self.step + 1, checked=checked)

    def _autocast(self) -> torch.autocast:
        dtype = PRECISIONS[self.plan.precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not torch.float32)

    def log(self, tracker: Tracker, bar: Any, *, samples: int, since: float) -> None:
        """Means over steps and ranks; the device sync of the loop. Stops on a loss that is not finite."""
        values = self.meter.read() | {f"g/{name}": value for name, value in self.task.report().items()}
        speed = samples / max(time.monotonic() - since, 1e-9)
        self._check_bad()
        self.saver.check()
        if self.plan.log_samples:
            tracker.samples(self.used)
            self.used = []
        bar.set_postfix({name: f"{values[name]:.4g}" for name in values if name in BAR}, refresh=False)
        for sentence in self.diagnosis.observe(values) if comm.is_main() else ():
            tqdm.write(f"step {self.step}: {sentence}")
        values |= {f"{name[0]}/lr": player.rate for name, player in self.players.items()}
        tracker.scalars(values | {"images_per_second": speed, "bad_samples": float(self.bad)}, step=self.step)

    def _check_bad(self) -> None:
        bad = sum(comm.gather(self.bad))
        if bad > max(1, self.plan.max_bad_fraction * self.consumed):
            raise UserError(
                f"{bad} unreadable samples were met within {self.consumed}, more than data.max_bad_fraction "
                f"{self.plan.max_bad_fraction} "
                "allows; mend the files named above, or raise data.max_bad_fraction"
            )

    def validate(self, tracker: Tracker) -> None:
        assert self.evaluate is not None
        with self.ema.unsharded() as net:
            results = self.evaluate(net)
        scores = {f"val/{name}/{metric}": value for name, row in results.means.items() for metric, value in row.items()}
        tracker.scalars(scores, step=self.step)
        for name, image in results.images.items():
            tracker.image(f"val/{name}", image, step=self.step)
        for name, image in results.sheets.items():
            tracker.image(f"val/{name}/sheet", image, step=self.step)
        value = float(np.mean([row[self.plan.best] for row in results.means.values() if self.plan.best in row]))
        first = self.best.get("metric") != self.plan.best
        best = first or better(self.plan.best, value, self.best["value"])
        if best:
            self.best = {"step": self.step, "value": value, "metric": self.plan.best}
            self.saver.wait()
            self.saver.model(self.ema.state(), self.models / "net_g_best.safetensors", self.step)
        if comm.is_main():
            shown = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
            tqdm.write(f"step {self.step}: {shown}{' (best)' if best else ''}")

    @property
    def models(self) -> Path:
        return self.plan.folder / "models"

    @property
    def last_model(self) -> Path:
        return self.models / f"net_g_{self.step}.safetensors"

    def save(self) -> None:
        """Everything to continue from, and the generator for use, as they are now; a thread writes them. Collective."""
        self.saver.wait()  # before anything is gathered: there is room for one
        bad = sum(comm.gather(self.bad))
        state = {"step": self.step, "consumed": self.consumed, "bad": bad, "best": self.best, "world": comm.world()}
        state["identity"] = self.plan.identity
        tensors = {name: player.state() for name, player in self.players.items()}
        tensors["ema"] = self.ema.state()
        if pool := self.task.state():
            tensors["task"] = pool
        spare = self.best.get("step")
        self.saver.checkpoint(state, tensors, spare=spare, model=self.last_model)

    def resume(self) -> None:
        """Continue from the newest checkpoint, if there is one, the same on all ranks. Collective."""
        found = checkpoint.load_newest(self.plan.folder / "checkpoints", fallback=self.plan.fallback)
        if found is None:
            return
        self._check_identity(found)
        try:
            for name, player in self.players.items():
                player.load_state(found.tensors[name])
            self.ema.load_state(found.tensors["ema"])
            pool = found.tensors.get("task", {})
            self.task.load_state({name: value.to(self.device) for name, value in pool.items()})
            self.step, self.consumed, bad, self.best = checkpoint.progress(found.state)
        except (KeyError, ValueError) as error:
            raise UserError(f"{found.folder}: does not fit these options ({error}); use another `name`") from None
        self.bad = bad if comm.is_main() else 0
        if comm.is_main():
            tqdm.write(f"continuing {self.plan.folder} at step {self.step}")

    def _check_identity(self, found: checkpoint.Checkpoint) -> None:
        identity = found.state.get("identity")
        known = identity if isinstance(identity, dict) else {}
        for key, value in self.plan.identity.items():
            if known.get(key) != value:
                raise UserError(
                    f"{found.folder}: was made with {key}: {str(known.get(key))[:200]}, "
                    f"the options say {value}; use another `name`, or remove {self.plan.folder} to start anew"
                )

    def _stopped(self, received: list[int]) -> Stopped:
        signum = max(comm.gather(received[0] if received else 0))
        name = signal.Signals(signum).name
        return Stopped(
            f"{name}: step {self.step} is saved in {self.plan.folder}; run the same command to continue", signum
        )


@contextmanager
def _tuned() -> Iterator[None]:
    """Let cuDNN try which of its convolutions is fastest for each shape: inside, the same ones come at every step."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
