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


class PerSample(ABC):
    """A stage that treats one image at a time, each with probability `prob`."""

    def __init__(self, prob: float = 1.0) -> None:
        self.prob = prob

    def __call__(self, images: list[Tensor], draws: list[Draw]) -> list[Tensor]:
        pairs = zip(images, draws, strict=True)
        return [self.apply(image, draw) if draw.chance(self.prob) else image for image, draw in pairs]

    @abstractmethod
    def apply(self, image: Tensor, draw: Draw) -> Tensor: ...
