"""Learning-rate schedules: pure functions of the optimizer step, without state to save in checkpoints."""

import math
from typing import Annotated, Literal, Protocol

from pydantic import Field, PositiveInt


class Schedule(Protocol):
    def __call__(self, base: float, step: int) -> float:
        """The learning rate of optimizer step `step` (from 0) for a base rate."""


class Constant:
    """The base rate at every step."""

    def __call__(self, base: float, step: int) -> float:
        return base


class MultiStep:
    """base * gamma^(number of milestones reached)."""

    def __init__(self, *, milestones: list[PositiveInt], gamma: Annotated[float, Field(gt=0)] = 0.5) -> None:
        self.milestones, self.gamma = milestones, gamma

    def __call__(self, base: float, step: int) -> float:
        return base * self.gamma ** sum(step >= milestone for milestone in self.milestones)


class Cosine:
    """Cosine annealing from base to `eta_min`, with warm restarts at the end of each period.

    SGDR, Loshchilov and Hutter 2017, equation 5. `periods` in steps; left out: one period over the whole run.
    """

    def __init__(
        self,
        *,
        periods: list[PositiveInt] | None = None,
        eta_min: Annotated[float, Field(ge=0)] = 0.0,
        total_steps: PositiveInt,
    ) -> None:
        self.periods, self.eta_min = periods or [total_steps], eta_min

    def __call__(self, base: float, step: int) -> float:
        for period in self.periods:
            if step < period:
                return self.eta_min + (base - self.eta_min) * (1 + math.cos(math.pi * step / period)) / 2
            step -= period
        return self.eta_min


class Linear:
    """Constant for `constant` of the run, then linear decay to 0 right after its last step (pix2pix, CycleGAN: 0.5)."""

    def __init__(self, *, constant: Annotated[float, Field(ge=0, lt=1)] = 0.5, total_steps: PositiveInt) -> None:
        self.start, self.total_steps = min(round(constant * total_steps), total_steps - 1), total_steps

    def __call__(self, base: float, step: int) -> float:
        return base * min(1.0, (self.total_steps - step) / (self.total_steps - self.start))


class WSD:
    """Warm-up, stable, decay (Hu et al. 2024, MiniCPM): the base rate, then a decay over the last `decay` of the run.

    Set `warmup_steps` for the first part. `shape` of the decay: linear, or sqrt for 1 - sqrt(t) (Haegele et al. 2024).
    `floor`: the share of the base rate that is reached right after the last step.
    """

    def __init__(
        self,
        *,
        decay: Annotated[float, Field(gt=0, le=1)] = 0.2,
        shape: Literal["linear", "sqrt"] = "linear",
        floor: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        total_steps: PositiveInt,
    ) -> None:
        self.start = total_steps - max(1, round(decay * total_steps))
        self.power, self.floor, self.total_steps = 0.5 if shape == "sqrt" else 1.0, floor, total_steps

    def __call__(self, base: float, step: int) -> float:
        passed = min(1.0, max(0, step - self.start) / (self.total_steps - self.start))
        return base * (self.floor + (1 - self.floor) * (1 - passed**self.power))


class Warmup:
    """Linear warm-up over the first `steps` steps, multiplied with any schedule."""

    def __init__(self, schedule: Schedule, steps: int) -> None:
        self.schedule, self.steps = schedule, steps

    def __call__(self, base: float, step: int) -> float:
        return self.schedule(base, step) * min(1.0, (step + 1) / (self.steps + 1))


SCHEDULES = {"constant": Constant, "multistep": MultiStep, "cosine": Cosine, "linear": Linear, "wsd": WSD}
