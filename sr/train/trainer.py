"""The training loop: update, log, save, validate, stop on all ranks together. A run is one call of `Trainer.run`."""

import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from copy import copy
from functools import partial
from math import isnan, nan
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sr.config.options import Options
from sr.core.errors import UserError
from sr.core.lock import Lock
from sr.core.progress import is_quiet
from sr.core.signals import Stopped, signals
from sr.data.batch import Batch, RawBatch
from sr.data.loader import worker_deaths
from sr.distributed import comm
from sr.distributed.rng import reseed
from sr.evaluate.metrics import better
from sr.evaluate.validate import ValidationFailed
from sr.tasks import Task
from sr.train import checkpoint, diagnostics, option_changes, replica_check
from sr.train.async_saver import AsyncSaver
from sr.train.build_validation import Validator
from sr.train.dry_run import dry_run
from sr.train.ema import EMA
from sr.train.model_optimizer import PRECISIONS, ModelOptimizer
from sr.train.step_graph import CudaGraph, StepGraph
from sr.train.tracker import Meter, Tracker
from sr.train.trackers import Run, Sink

BAR = "g/pixel", "g/perceptual", "g/gan", "d/real", "d/fake"  # what fits on the progress bar


class Trainer:
    """Owns the loop and the position in the data; everything else is passed in.

    Args:
        batches: called with a global sample position; returns this rank's infinite micro-batches from there on.
        prepare: moves a micro-batch to the device and degrades it.
        evaluate: the validation; None without validation sets.
        export: called with (weights, path, step) in a thread; writes the weights for other programs.
        record: called with the step once the run may resume in its folder; writes options.yml.
        options: the whole options; resolved: the same with all defaults, as a checkpoint holds them.
        trackers: by type, not yet started.
        precision: of the forward pass on this device.
        accept_changes: resume with options that change the training.
    """

    def __init__(
        self,
        *,
        task: Task,
        players: Mapping[str, ModelOptimizer],
        ema: EMA,
        batches: Callable[[int], Generator[RawBatch, None, None]],
        prepare: Callable[[RawBatch], Batch],
        evaluate: Validator | None,
        export: Callable[[Mapping[str, Tensor], Path, int], None],
        record: Callable[[int], None],
        options: Options,
        resolved: Mapping[str, Any],
        trackers: Mapping[str, Sink],
        precision: str,
        accept_changes: bool = False,
    ) -> None:
        self.task, self.players, self.ema, self.options = task, players, ema, options
        self.resolved, self.precision, self.accept_changes = resolved, precision, accept_changes
        self.batches, self.prepare, self.evaluate = batches, prepare, evaluate
        self.record, self.trackers = record, trackers
        self.saver = AsyncSaver(
            options.folder / "checkpoints", keep=options.save.keep, keep_models=options.save.keep_models, export=export
        )
        self.step = self.consumed = self.bad = self.failed_validations = 0
        self.pretrained = "generator" in options.init
        self.used: list[tuple[int, list[int]]] = []
        self.best: dict[str, Any] = {}
        self.device = next(iter(players.values())).accelerator.device
        self.graphs = self._make_graphs()
        self.waited = 0.0  # seconds since the last log that this rank waited for data
        self.meter, self.diagnosis = Meter(), diagnostics.Diagnosis()
        self.loss_names: dict[str, None] = {}

    def run(self) -> None:
        """Train to `total_steps`, from the newest checkpoint if there is one. Raises Stopped after SIGTERM or SIGINT.

        No other process can train in the run folder meanwhile.
        """
        lock = Lock(
            self.options.folder / ".lock",
            used=f"{self.options.folder}: is being trained in",
            fix="stop it first, or use another `name`",
        )
        comm.on_main(lock.acquire)
        try:
            self._run()
        finally:
            lock.release()

    def _run(self) -> None:
        options = self.options
        comm.resumes(lambda: f"step {max(checkpoint.steps(options.folder / 'checkpoints'), default=0)}")
        self.resume()
        comm.on_main(lambda: self.record(self.step))
        if comm.is_main():
            ways = ", ".join(f"{name} by {player.backend.way}" for name, player in self.players.items())
            tqdm.write(f"{comm.world()} x {self.device.type}: {ways}")
        with closing(self.saver), worker_deaths(), signals() as received:
            if self.step < options.train.total_steps:
                dry_run(self)
            run = Run(options.folder, self.resolved, resume_step=self.step, losses=self.loss_names)
            with closing(Tracker(run, self.trackers)) as tracker:
                if self._validates() and (self.step or self.pretrained):
                    self.validate(tracker)  # the baseline; or of a checkpoint, which is saved before its validation
                self._train(tracker, received)
            self.saver.wait()

    def _train(self, tracker: Tracker, received: list[int]) -> None:
        """Run the loop. received: the signals so far."""
        options, start = self.options, self.step
        plain = not comm.is_main() or not sys.stderr.isatty() or is_quiet()
        bar = tqdm(total=options.train.total_steps, initial=self.step, disable=plain, unit="step", mininterval=1.0)
        since, logged, vote = time.monotonic(), self.step, comm.Vote()
        with bar, closing(self.batches(self.consumed)) as source:
            batches = LookAhead(source, options.train.accumulate * (1 if comm.world() == 1 else 2))
            while self.step < options.train.total_steps:
                with comm.watched(self.step + 1, first=self.step == start):
                    self.train_step(batches)
                    replica_check.check_ranks(
                        self.players, self.ema, step=self.step, every=options.train.check_ranks_every
                    )
                    stop = vote.cast(bool(received or batches.error))
                bar.update()
                stop = stop and self.step < options.train.total_steps
                validate = self._validates() and not stop
                save = self._due(options.save.every) or stop
                if self._due(options.log.every) or validate or save:
                    with comm.watched(self.step):
                        self.log(tracker, bar, samples=(self.step - logged) * options.data.batch_size, since=since)
                        bad = self._too_many_bad()
                    if save or bad:
                        self.save()
                    if validate or stop or bad:
                        self.saver.wait()  # a failure of what follows must not cost this checkpoint
                    if bad:
                        raise UserError(bad)
                    if validate:
                        self.validate(tracker)
                    since, logged = time.monotonic(), self.step
                if stop:
                    raise self._stopped(received, batches.error)

    def _validates(self) -> bool:
        return self.evaluate is not None and self._due(self.options.validation.every)

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.options.train.total_steps

    def train_step(self, batches: Iterator[RawBatch]) -> None:
        """Run one optimizer step of every player: `accumulate` micro-batches, one gradient exchange."""
        for micro in range(self.options.train.accumulate):
            raw = next(batches)
            self.bad, self.waited = self.bad + len(raw.bad), self.waited + raw.waited
            for report in raw.bad:
                tqdm.write(f"unreadable sample {report}")
            if self.options.log.samples:
                self.used.append((self.step + 1, [place for group in raw.groups for place in group.positions]))
            last = micro == self.options.train.accumulate - 1
            reseed(self.options.seed, self.step, micro)
            with ExitStack() as window:
                for player in self.players.values():
                    window.enter_context(player.no_sync(last))
                pair = self.prepare(raw)
                with _tuned():
                    self._phases(pair, last)
        self.ema.update(step=self.step)
        self.step += 1
        if self.options.train.switch_ema and self.step % self.options.train.switch_ema == 0:
            self.ema.switch()
        self.consumed += self.options.data.batch_size

    def _phases(self, batch: Batch, last: bool) -> None:
        measure = last and (self.step + 1) % self.options.log.every == 0
        recorded = self.graphs.step(batch, self.step) if self.graphs and not measure else None
        for each in recorded or ():
            if each.losses:
                norm = self.players[each.player].finish(step=self.step)
                self._note(each.player[0], each.losses, each.report, norm)
        if recorded is not None:
            return
        phases = self.task.step(batch, self.step)
        while True:
            with self._autocast():
                phase = next(phases, None)
            if phase is None:
                return
            if not phase.losses:  # all loss weights are still 0, on all ranks alike
                continue
            player, tag = self.players[phase.player], phase.player[0]
            report = dict(phase.report)
            rest = None
            if measure:
                measured, rest = diagnostics.shares(phase)
                report |= measured
                if phase.output is not None and phase.target is not None:
                    report |= diagnostics.looks(phase.output, phase.target)
            total = torch.stack([loss.float() for loss in phase.losses.values()]).sum()
            if rest is not None and self.precision != "fp16":  # fp16 needs `total`, whose range the scaler checks
                total = rest
            norm = player.update(total / self.options.train.accumulate, step=self.step, last=last, measure=measure)
            self._note(tag, phase.losses, report, norm)

    def _note(self, tag: str, losses: Mapping[str, Tensor], report: Mapping[str, Tensor], norm: Tensor | None) -> None:
        """Add the values of a phase to the meter."""
        report = dict(report) if norm is None else {**report, "grad_norm": norm}
        self.loss_names |= {f"{tag}/{name}": None for name in losses}
        for values, checked in ((losses, True), (report, False)):
            tagged = {f"{tag}/{name}": value for name, value in values.items()}
            self.meter.add(tagged, step=self.step + 1, checked=checked)

    def _make_graphs(self) -> StepGraph | None:
        """Return what `train.cuda_graph` asks for; auto: graphs where they are supported."""
        asked = self.options.train.cuda_graph
        ways = {player.backend.way for player in self.players.values()}
        fixed = self.task.constants(0) is not None and self.options.train.accumulate == 1
        supported = self.device.type == "cuda" and ways == {"one process"} and self.precision != "fp16" and fixed
        if asked is True and not supported:
            raise UserError(
                "train.cuda_graph: true needs one process with a CUDA GPU, precision bf16 or fp32, accumulate 1, and a "
                "task without an image pool, feature cache or distillation; set it to auto"
            )
        if asked is False or not supported:
            return None

        def has_room() -> bool:  # steps that log run without graphs and need memory too
            ours = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
            return asked is True or 2.2 * torch.cuda.max_memory_allocated() < ours

        return StepGraph(
            self.task,
            self.players,
            autocast=self._autocast,
            reseed=lambda step: reseed(self.options.seed, step, 0),
            make=lambda: partial(CudaGraph, torch.cuda.graph_pool_handle()),  # the pool of deleted graphs is not usable
            has_room=has_room,
        )

    def _autocast(self) -> torch.autocast:
        dtype = PRECISIONS[self.precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not torch.float32)

    def log(self, tracker: Tracker, bar: Any, *, samples: int, since: float) -> None:
        """Log means over steps and ranks; this is the device sync of the loop. Raises NotFinite. Collective."""
        values = self.meter.read() | {f"g/{name}": value for name, value in self.task.report().items()}
        seconds = max(time.monotonic() - since, 1e-9)
        speed = samples / seconds
        values["data_wait"] = min(1.0, max(comm.gather(self.waited)) / seconds)  # all ranks wait for the slowest one
        self.waited = 0.0
        self.saver.check()
        if self.options.log.samples:
            tracker.samples(self.used)
            self.used = []
        bar.set_postfix({name: f"{values[name]:.4g}" for name in values if name in BAR}, refresh=False)
        if bar.disable and comm.is_main():
            shown = ", ".join(f"{name} {values[name]:.4g}" for name in self.loss_names if name in values)
            tqdm.write(f"step {self.step} of {self.options.train.total_steps}: {shown}, {speed:.3g} images/s")
        for sentence in self.diagnosis.observe(values) if comm.is_main() else ():
            tqdm.write(f"step {self.step}: {sentence}")
        values |= {f"{name[0]}/lr": player.rate for name, player in self.players.items()}
        tracker.scalars(values | {"images_per_second": speed, "bad_samples": float(self.bad)}, step=self.step)

    def _too_many_bad(self) -> str | None:
        """Return the error message where more samples were unreadable than data.max_bad_fraction allows. Collective."""
        bad = sum(comm.gather(self.bad))
        if bad <= max(1, self.options.data.max_bad_fraction * self.consumed):
            return None
        return (
            f"{bad} of {self.consumed} samples were unreadable, more than data.max_bad_fraction "
            f"{self.options.data.max_bad_fraction} allows; repair or remove the files named above, or raise "
            "data.max_bad_fraction"
        )

    def validate(self, tracker: Tracker) -> None:
        """Measure the EMA, log the scores, and export it where it is the best so far. Collective.

        A failure is reported and counted; it does not end the run.
        """
        assert self.evaluate is not None
        try:
            with self.ema.unsharded() as net:
                results = self.evaluate(net)
        except ValidationFailed as error:
            self.failed_validations += 1
            tracker.scalars({"failed_validations": float(self.failed_validations)}, step=self.step)
            if comm.is_main():
                tqdm.write(f"step {self.step}: validation failed, {error}; training continues")
            return
        scores = {f"val/{name}/{metric}": value for name, row in results.means.items() for metric, value in row.items()}
        tracker.scalars(scores, step=self.step)
        for name, image in results.images.items():
            tracker.image(f"val/{name}", image, step=self.step)
        for name, image in results.sheets.items():
            tracker.image(f"val/{name}/sheet", image, step=self.step)
        metric = results.first_measured(self.options.best_metrics)
        value = nan if metric is None else fmean(row[metric] for row in results.means.values() if metric in row)
        first = self.best.get("metric") != metric
        best = metric is not None and not isnan(value) and (first or better(metric, value, self.best["value"]))
        if best:
            self.best = {"step": self.step, "value": value, "metric": metric}
            self.saver.wait()
            self.saver.model(self.ema.state(), self.models / "net_g_best.safetensors", self.step)
        if comm.is_main():
            shown = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
            tqdm.write(f"step {self.step}: {shown}{' (best)' if best else ''}")

    @property
    def models(self) -> Path:
        return self.options.folder / "models"

    @property
    def last_model(self) -> Path:
        return self.models / f"net_g_{self.step}.safetensors"

    def save(self) -> None:
        """Save everything that resuming needs, and the generator for use; a thread writes them. Collective."""
        self.saver.wait()  # before tensors are gathered: host memory is meant for one copy
        state, tensors = self.snapshot()
        discriminator = self.models / f"net_d_{self.step}.safetensors" if self.options.save.discriminator else None
        best = self.best.get("step")
        self.saver.checkpoint(state, tensors, spare=best, model=self.last_model, discriminator=discriminator)

    def snapshot(self) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
        """Return state and tensors of a checkpoint of the current step. Collective."""
        bad = sum(comm.gather(self.bad))
        state = {"step": self.step, "consumed": self.consumed, "bad": bad, "best": self.best, "world": comm.world()}
        state |= {"options": self.resolved, "pretrained": self.pretrained}
        tensors = {name: player.state() for name, player in self.players.items()}
        tensors["ema"] = self.ema.state()
        if pool := self.task.state():
            tensors["task"] = pool
        return state, tensors

    def resume(self) -> None:
        """Load the newest checkpoint, if there is one, the same on all ranks. Collective."""
        found = checkpoint.load_newest(self.options.folder / "checkpoints", fallback=self.options.save.fallback)
        if found is None:
            return
        fresh = self._check_options(found)
        try:
            for name, player in self.players.items():
                kept = found.tensors[name].items()
                player.load_state({key: value for key, value in kept if name not in fresh or key.startswith("model/")})
            self.ema.load_state(found.tensors["ema"])
            pool = found.tensors.get("task", {})
            self.task.load_state({name: value.to(self.device) for name, value in pool.items()})
            self.step, self.consumed, bad, self.best = checkpoint.progress(found.state)
        except (KeyError, ValueError) as error:
            raise UserError(f"{found.folder}: does not fit these options ({error}); use another `name`") from None
        self.bad = bad if comm.is_main() else 0
        self.pretrained = bool(found.state.get("pretrained"))
        self.ema.warm_up = not self.pretrained
        if comm.is_main():
            tqdm.write(f"resuming {self.options.folder} at step {self.step}")

    def _check_options(self, found: checkpoint.Checkpoint) -> set[str]:
        """Print the options that changed since the checkpoint; raise UserError for changes that are not allowed.

        Returns the players whose optimizer has another type, so that the saved state cannot be used.
        """
        old = found.state.get("options")
        written = self.options.model_dump(mode="json", exclude_unset=True)
        changes = option_changes.changes(old if isinstance(old, dict) else {}, self.resolved, written)
        step = found.state.get("step", 0)
        if changes and comm.is_main():
            tqdm.write(option_changes.table(changes, step=step))
        option_changes.check(changes, folder=found.folder, step=step, accepted=self.accept_changes)
        return {name for name in self.players if any(row.key == f"optimizer.{name}.type" for row in changes)}

    def _stopped(self, received: list[int], error: UserError | None) -> UserError:
        """Return what ends the run on all ranks: data that a rank cannot read, else the signal. Collective."""
        signals, errors = zip(*comm.gather((received[0] if received else 0, error)), strict=True)
        unreadable = error or next((each for each in errors if each), None)
        if unreadable:
            return copy(unreadable)
        signum = max(signals)
        name = signal.Signals(signum).name
        return Stopped(
            f"{name}: step {self.step} is saved in {self.options.folder}; run the same command to resume", signum
        )


class LookAhead(Iterator[RawBatch]):
    """Reads micro-batches `ahead` of their use, so that an error in the data is known before the step that needs it.

    error: why the next micro-batches cannot be read. Those before them are still returned. All ranks can then
    stop together and save; two steps ahead, because they agree with a delay of one step.
    """

    def __init__(self, source: Iterator[RawBatch], ahead: int) -> None:
        self.error: UserError | None = None
        self._source, self._ahead, self._read = source, ahead, deque[RawBatch]()

    def __next__(self) -> RawBatch:
        while self.error is None and len(self._read) <= self._ahead:
            try:
                self._read.append(next(self._source))
            except UserError as error:
                self.error = copy(error)  # here and later: its frames would keep the loader's workers alive
        if not self._read and self.error is not None:
            raise copy(self.error)
        return self._read.popleft()


@contextmanager
def _tuned() -> Iterator[None]:
    """Enable cuDNN's benchmark mode inside the block, where shapes are the same at every step."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
