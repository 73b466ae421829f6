"""Loss weights over the steps; a plain number in the options is a constant."""

from typing import Annotated

from pydantic import Field, NonNegativeInt

NonNegative = Annotated[float, Field(ge=0)]


class Constant:
    """`value` at every step; the same as a plain number."""

    def __init__(self, *, value: NonNegative) -> None:
        self.value = value

    def __call__(self, step: int) -> float:
        return self.value


class Ramp:
    """0 before step `start`, then linear from `begin` to `to` within `over` steps, then `to`.

    Starting the GAN term late lets the discriminator train first: {type: ramp, to: 1e-3, start: 5000, over: 5000}.
    """

    def __init__(
        self, *, to: NonNegative, begin: NonNegative = 0.0, start: NonNegativeInt = 0, over: NonNegativeInt = 0
    ) -> None:
        self.to, self.begin, self.start, self.over = to, begin, start, over

    def __call__(self, step: int) -> float:
        if step < self.start:
            return 0.0
        if step >= self.start + self.over:
            return self.to
        return self.begin + (self.to - self.begin) * (step - self.start) / self.over


WEIGHTS: dict[str, type] = {"constant": Constant, "ramp": Ramp}
