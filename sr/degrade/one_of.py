"""A fork in the list of stages."""

from typing import Annotated

from torch import Tensor

from sr.config.registry import PartOf
from sr.degrade.draws import Draw
from sr.degrade.stage import Chosen, Stage


class OneOf(Chosen):
    """Each sample goes through one of several lists of stages, with equal chance."""

    def __init__(self, *, choices: list[list[Annotated[Stage, PartOf("degrade")]]]) -> None:
        super().__init__()
        self.choices = choices

    def apply(self, images: list[Tensor], draws: list[Draw]) -> list[Tensor]:
        ways = [draw.pick(range(len(self.choices))) for draw in draws]
        for way, stages in enumerate(self.choices):
            rows = [row for row, chosen in enumerate(ways) if chosen == way]
            part, their = [images[row] for row in rows], [draws[row] for row in rows]
            for stage in stages if rows else []:
                part = stage(part, their)
            images = [part[rows.index(row)] if row in rows else image for row, image in enumerate(images)]
        return images
