"""What every stage of a degradation has in common."""

from abc import ABC, abstractmethod
from typing import Annotated, Protocol

from pydantic import AfterValidator, Field
from torch import Tensor

from sr.degrade.draws import Draw


def ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError("give the lower bound first")
    return bounds


def _around_one(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] <= 1 <= bounds[1]:
        raise ValueError("give one bound up to 1 and one from 1 on")
    return bounds


NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Prob = Annotated[float, Field(ge=0, le=1)]
Range = Annotated[tuple[NotNegative, NotNegative], AfterValidator(ascending)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(ascending)]
AroundOne = Annotated[tuple[Positive, Positive], AfterValidator(_around_one)]


class Stage(Protocol):
    """A step of the degradation.

    images: float RGB [3, h, w] in 0..1, a list because random resizing leaves every sample its own size.
    draws: as many, the only source of randomness. A sample's result must not depend on its neighbours.
    """

    def __call__(self, images: list[Tensor], draws: list[Draw]) -> list[Tensor]: ...


class Chosen(ABC):
    """A stage that each sample goes through with probability `prob`."""

    def __init__(self, prob: float = 1.0) -> None:
        self.prob = prob

    def __call__(self, images: list[Tensor], draws: list[Draw]) -> list[Tensor]:
        rows = [row for row, draw in enumerate(draws) if draw.chance(self.prob)]
        changed = self.apply([images[row] for row in rows], [draws[row] for row in rows]) if rows else []
        new = dict(zip(rows, changed, strict=True))
        return [new.get(row, image) for row, image in enumerate(images)]

    @abstractmethod
    def apply(self, images: list[Tensor], draws: list[Draw]) -> list[Tensor]:
        """At least one image. Every sample makes its own draws, whatever the others draw."""
