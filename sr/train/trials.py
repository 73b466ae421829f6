"""Short trainings from the initial weights that save no checkpoint: a profile, and a learning-rate range test."""

import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from sr.config.options import Options
from sr.core.atomic import replacing
from sr.core.errors import UserError
from sr.distributed import comm
from sr.report.plot import plot
from sr.train.builder import Builder
from sr.train.tracker import NotFinite
from sr.train.trainer import Trainer

WARM_UP = 3  # steps before those that are profiled: compilation, autotuning, caches
MOST = 10  # operators that are printed


def _trainer(options: Options, *, plugins: bool) -> Trainer:
    return Builder(options, plugins=plugins).trainer()


def _steps(trainer: Trainer, count: int) -> Iterator[int]:
    """Train for `count` steps; yield before each one."""
    with closing(trainer.batches(0)) as batches:
        for step in range(count):
            yield step
            with comm.watched(step + 1, first=step == 0):
                trainer.train_step(batches)


def _end(trainer: Trainer) -> None:
    comm.shutdown()
    trainer.players["generator"].accelerator.end_training()


# ---- profile ---------------------------------------------------------------------------------------------------------


def profile(options: Options, *, steps: int, plugins: bool = True) -> Path:
    """Trace `steps` steps after WARM_UP steps with torch.profiler, and print the most expensive operators.

    Returns the trace on rank 0, `profile.json.gz` in the run folder, for https://ui.perfetto.dev. Collective.
    """
    trainer = _trainer(options, plugins=plugins)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if trainer.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    tracer = torch.profiler.profile(activities=activities)
    for step in _steps(trainer, WARM_UP + steps):
        if step == WARM_UP:
            trainer.meter.read()  # waits for the device
            tracer.start()
    trainer.meter.read()
    tracer.stop()
    trace = options.folder / "profile.json.gz"
    comm.on_main(lambda: _export(tracer, trace))
    if comm.is_main():
        print(_table(tracer.key_averages(), steps=steps, device=trainer.device.type))
        print(f"\ntrace   {trace}, open it on https://ui.perfetto.dev", flush=True)
    _end(trainer)
    return trace


def _export(tracer: Any, trace: Path) -> None:
    with replacing(trace) as scratch:  # the profiler compresses by the suffix
        written = scratch.with_name(f"{scratch.name}.gz")
        try:
            tracer.export_chrome_trace(str(written))
            written.replace(scratch)
        finally:
            written.unlink(missing_ok=True)


def _table(averages: Any, *, steps: int, device: str) -> str:
    """Return the operators with the most time of their own, in milliseconds per step and as a share."""
    attribute = "self_cpu_time_total" if device == "cpu" else "self_device_time_total"
    rows = sorted(((getattr(row, attribute), row) for row in averages), key=lambda pair: -pair[0])
    total = sum(time for time, _ in rows) or 1
    lines = [f"{'operator':60} {'calls/step':>10} {'ms/step':>9} {'share':>6}   (time on the {device})"]
    lines += [
        f"{row.key[:60]:60} {row.count / steps:10.0f} {time / steps / 1000:9.2f} {time / total:6.1%}"
        for time, row in rows[:MOST]
    ]
    return "\n".join(lines)


# ---- learning rate ---------------------------------------------------------------------------------------------------

LOW, HIGH = 1e-3, 1e3  # of the rates in the options
SMOOTHING = 0.9
STOP = 4.0  # times the smallest loss


class Found(NamedTuple):
    """rate: suggested for the generator. points: (rate, smoothed loss)."""

    rate: float
    points: list[tuple[float, float]]


def find_lr(options: Options, *, steps: int, plugins: bool = True) -> Found:
    """Train while the learning rates rise exponentially from LOW to HIGH times those of the options.

    Range test of Smith 2017 (Cyclical Learning Rates), with the loss smoothed and ended early as fastai does. The
    suggestion is the rate at which the loss of the generator without its GAN term falls fastest. Draws `find_lr.png` in
    the run folder. Collective.
    """
    trainer = _trainer(options, plugins=plugins)
    points, mean = list[tuple[float, float]](), 0.0
    for each in trainer.players.values():
        each.schedule = lambda base, step: base * LOW * (HIGH / LOW) ** (step / max(steps - 1, 1))
    try:
        for step in _steps(trainer, steps):
            if step:
                mean = _observe(trainer, points, mean)
                if points[-1][1] > STOP * min(loss for _, loss in points):
                    break
        else:
            _observe(trainer, points, mean)
    except NotFinite:
        pass  # the test is over, on all ranks alike
    if len(points) < 5:
        raise UserError("--find-lr: the loss was not finite within 5 steps; lower optimizer.generator.lr")
    found = Found(suggestion(points), points)
    comm.on_main(lambda: _draw(found, options))
    _end(trainer)
    return found


def _observe(trainer: Trainer, points: list[tuple[float, float]], mean: float) -> float:
    """Add the last step to `points`; return the running mean of the loss. Collective."""
    values = trainer.meter.read()
    losses = [values[name] for name in trainer.loss_names if name[:2] == "g/" and name != "g/gan" and name in values]
    mean = SMOOTHING * mean + (1 - SMOOTHING) * (sum(losses) if losses else values["g/gan"])
    points.append((trainer.players["generator"].rate, mean / (1 - SMOOTHING ** (len(points) + 1))))
    return mean


def suggestion(points: list[tuple[float, float]]) -> float:
    """Return the rate at the steepest descent of the loss before its minimum, over the logarithm of the rate.

    A slope spans a fifth of the test: between neighbors it is that of the batches, not of the rate.
    """
    last, span = min(range(len(points)), key=lambda n: points[n][1]), max(1, len(points) // 10)
    slopes = {
        n: (points[n + span][1] - points[n - span][1]) / math.log(points[n + span][0] / points[n - span][0])
        for n in range(span, min(last, len(points) - span - 1) + 1)
    }
    return points[min(slopes, key=lambda n: slopes[n])][0] if slopes else points[0][0]


def _draw(found: Found, options: Options) -> None:
    file = options.folder / "find_lr.png"
    image = plot(
        found.points,
        x="learning rate of the generator (logarithmic)",
        y="loss of the generator without its GAN term (smoothed)",
        size=(720, 320),
        log_x=True,
        mark=found.rate,
    )
    with replacing(file) as scratch:
        image.save(scratch, format="png")
    tqdm.write(f"learning rate   {found.rate:.2g}, at which the loss falls fastest; set optimizer.generator.lr")
    tqdm.write(f"plot            {file}")
