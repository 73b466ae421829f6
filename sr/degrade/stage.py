"""Interface and base class of degradation stages."""

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Protocol

from pydantic import AfterValidator, Field
from torch import Tensor

from sr.config.ranges import around_one, ascending
from sr.degrade import canvas
from sr.degrade.draws import Draw

NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Prob = Annotated[float, Field(ge=0, le=1)]
Range = Annotated[tuple[NotNegative, NotNegative], AfterValidator(ascending)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(ascending)]
AroundOne = Annotated[tuple[Positive, Positive], AfterValidator(around_one)]


class Stage(Protocol):
    """A step of the degradation.

    Takes float RGB images [3, h, w] in 0..1, as a list because random resizing gives samples different sizes, and one
    `Draw` per image, the only source of randomness. The result of a sample must not depend on the others in the batch.
    """

    def __call__(self, images: list[Tensor], draws: list[Draw]) -> list[Tensor]: ...


class RandomStage(ABC):
    """A stage that is applied to each sample with probability `prob`.

    host: whether it needs the images in the memory of the host. Degradations with such a stage run in loader workers.
    """

    host: ClassVar[bool] = False

    def __init__(self, prob: float = 1.0) -> None:
        self.prob = prob

    def __call__(self, images: list[Tensor], draws: list[Draw]) -> list[Tensor]:
        rows = [row for row, draw in enumerate(draws) if draw.chance(self.prob)]
        if not rows:
            return images
        return canvas.replaced(images, rows, self.apply(canvas.subset(images, rows), [draws[row] for row in rows]))

    @abstractmethod
    def apply(self, images: list[Tensor], draws: list[Draw]) -> list[Tensor]:
        """Process at least one image. Each sample uses only its own `Draw`."""
