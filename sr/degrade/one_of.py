"""A random choice between lists of stages."""

from typing import Annotated

from torch import Tensor

from sr.config.registry import PartOf
from sr.degrade.draws import Draw
from sr.degrade.stage import RandomStage, Stage


class OneOf(RandomStage):
    """Apply one of several lists of stages to each sample, chosen uniformly."""

    def __init__(self, *, choices: list[list[Annotated[Stage, PartOf("degrade")]]]) -> None:
        super().__init__()
        self.choices = choices

    def apply(self, images: list[Tensor], draws: list[Draw]) -> list[Tensor]:
        chosen = [draw.pick(range(len(self.choices))) for draw in draws]
        for choice, stages in enumerate(self.choices):
            rows = [row for row, number in enumerate(chosen) if number == choice]
            part, part_draws = [images[row] for row in rows], [draws[row] for row in rows]
            for stage in stages if rows else []:
                part = stage(part, part_draws)
            images = [part[rows.index(row)] if row in rows else image for row, image in enumerate(images)]
        return images
