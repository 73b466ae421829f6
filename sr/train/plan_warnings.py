"""Warnings about plans that end early or never start: schedules, loss weights, and intervals beyond the last step.

And about models that other programs open differently.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from sr.config.options import Options, Part
from sr.losses.weight_schedules import Constant, Ramp
from sr.nets.spandrel_archs import ARCHITECTURES
from sr.train.schedules import Cosine, MultiStep, Warmup

SAMPLES = 1000  # steps at which schedules and weights from outside are evaluated


class Builder(Protocol):
    options: Options

    def filled(self) -> dict[str, Any]: ...
    def schedule(self) -> Any: ...
    def weight(self, part: Part) -> Any: ...


def plan_warnings(build: Builder) -> list[str]:
    """One sentence for each part of the plan that takes no effect, with the step numbers and the fix."""
    found = [*_intervals(build.options), *_schedule(build), *_weights(build), *_elsewhere(build)]
    return list(dict.fromkeys(found))


def _intervals(options: Options) -> Iterator[str]:
    total, validation = options.train.total_steps, options.validation
    fix = f"set it to at most {total}"
    if options.save.every > total:
        yield (
            f"save.every {options.save.every} is beyond the last step, {total}: the only checkpoint is the one at the "
            f"end, and a killed run starts over; {fix}"
        )
    if validation.sets and validation.every > total:
        yield (
            f"validation.every {validation.every} is beyond the last step, {total}: the only validation is the one at "
            f"the end; {fix}"
        )
    if options.log.every > total:
        yield f"log.every {options.log.every} is beyond the last step, {total}: there is one entry, at the end; {fix}"


# ---- learning rate ---------------------------------------------------------------------------------------------------


def _schedule(build: Builder) -> Iterator[str]:
    total, schedule = build.options.train.total_steps, build.schedule()
    if isinstance(schedule, Warmup):
        if schedule.steps >= total:
            yield (
                f"schedule.warmup_steps {schedule.steps}: the run ends at step {total}, before the learning rate has "
                "its full value; lower it"
            )
        schedule = schedule.schedule
    rates: dict[str, float] = {
        name: float(part["lr"]) for name, part in build.options.optimizer.items() if "lr" in part
    }
    if isinstance(schedule, Cosine):
        yield from _cosine(schedule, total, rates)
    elif isinstance(schedule, MultiStep):
        late = [milestone for milestone in schedule.milestones if milestone >= total]
        if late:
            yield f"schedule.milestones {late} are never reached: the run ends at step {total}; remove or lower them"
    else:
        for name, rate in rates.items():
            if steps := _zeros(lambda step, rate=rate: schedule(rate, step), total):  # type: ignore[misc]
                yield (
                    f"the learning rate of the {name} is 0 at steps {steps[0]} to {steps[1]} of {total}: they train "
                    "nothing; change schedule"
                )


def _cosine(schedule: Cosine, total: int, rates: dict[str, float]) -> Iterator[str]:
    end = sum(schedule.periods)
    if end < total:
        rest = "0, so they train nothing" if schedule.eta_min == 0 else f"eta_min {schedule.eta_min:g}"
        yield (
            f"schedule.periods end at step {end} of {total}: the learning rate of the remaining {total - end} steps is "
            f"{rest}; add periods that sum to {total}, or set train.total_steps to {end}"
        )
    elif end > total:
        yield (
            f"schedule.periods end at step {end}, but the run ends at step {total}, before the learning rate has "
            f"come down to eta_min; give periods that sum to {total}"
        )
    for name, rate in rates.items():
        if schedule.eta_min >= rate:
            yield f"schedule.eta_min {schedule.eta_min:g} is not below optimizer.{name}.lr {rate:g}; lower it"


# ---- loss weights ----------------------------------------------------------------------------------------------------


def _weights(build: Builder) -> Iterator[str]:
    losses, total = build.options.losses, build.options.train.total_steps
    parts = dict(losses.reconstruction) | ({"gan": losses.gan} if losses.gan else {})
    for name, part in parts.items():
        yield from _weight(f"losses.{name}", build.weight(part), total)
        for number, extra in enumerate(part.get("regularizers", [])):
            key = f"losses.{name}.regularizers.{number}"
            yield from _weight(key, build.weight(extra), total)
            if extra.get("every", 1) > total:
                yield f"{key}.every {extra['every']} is beyond the last step, {total}; lower it"


def _weight(name: str, weight: Callable[[int], float], total: int) -> Iterator[str]:
    if isinstance(weight, Constant):
        if weight.value == 0:
            yield f"{name}.weight is 0: the term never takes part; remove the term, or raise its weight"
    elif isinstance(weight, Ramp):
        if weight.start >= total:
            yield f"{name}.weight starts at step {weight.start}, after the last step, {total}: lower `start`"
        elif weight.start + weight.over > total:
            yield (
                f"{name}.weight reaches {weight.to:g} at step {weight.start + weight.over}, after the last step, "
                f"{total}; lower `start` or `over`"
            )
        elif max(weight.begin, weight.to) == 0:
            yield f"{name}.weight is 0 at every step: the term never takes part; raise `to`"
    elif _zeros(weight, total) == (0, total - 1):
        yield f"{name}.weight is 0 at all {total} steps: the term never takes part; change its weight"


def _zeros(value: Callable[[int], float], total: int) -> tuple[int, int] | None:
    """The first and last step of the first stretch at which `value` is 0, or None. Exact up to 1000 steps."""
    steps = np.unique(np.linspace(0, total - 1, min(total, SAMPLES)).round().astype(int)).tolist()
    zero = [value(step) == 0 for step in steps]
    if True not in zero:
        return None
    first = zero.index(True)
    last = zero.index(False, first) - 1 if False in zero[first:] else len(zero) - 1
    return _edge(value, steps[first], steps[first - 1] if first else None), _edge(
        value, steps[last], steps[last + 1] if last + 1 < len(steps) else None
    )


def _edge(value: Callable[[int], float], zero: int, other: int | None) -> int:
    """The zero step nearest to `other`, a step that is not zero, by bisection."""
    while other is not None and abs(zero - other) > 1:
        middle = (zero + other) // 2
        zero, other = (middle, other) if value(middle) == 0 else (zero, middle)
    return zero


# ---- other programs --------------------------------------------------------------------------------------------------


def _elsewhere(build: Builder) -> Iterator[str]:
    part = build.filled().get("generator") or {"type": ""}
    row = ARCHITECTURES.get(part["type"].removeprefix("spandrel."))
    if row and any(part[key] != value for key, value in row.assumed.items()):
        values = ", ".join(f"{key}: {value}" for key, value in row.assumed.items())
        yield (
            f"generator: other programs open every {part['type']} with {values}, so that this model gives another "
            "output there; set these values if it has to work outside of sr"
        )
