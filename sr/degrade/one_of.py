"""A fork in the list of stages."""

from typing import Annotated

from torch import Tensor

from sr.construct import PartOf
from sr.degrade.draws import Draw
from sr.degrade.stage import PerSample, Stage


class OneOf(PerSample):
    """Each sample goes through one of several lists of stages, with equal chance."""

    def __init__(self, *, choices: list[list[Annotated[Stage, PartOf("degrade")]]]) -> None:
        super().__init__()
        self.choices = choices

    def apply(self, image: Tensor, draw: Draw) -> Tensor:
        for stage in draw.pick(self.choices):
            [image] = stage([image], [draw])
        return image
