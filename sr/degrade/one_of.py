"""A random choice between lists of stages."""

from collections.abc import Iterator, Sequence
from typing import Annotated

from torch import Tensor

from sr.config.registry import PartOf
from sr.degrade import canvas
from sr.degrade.draws import Draw
from sr.degrade.stage import RandomStage, Stage

Merged = list[tuple[Stage, set[int]]]


class OneOf(RandomStage):
    """Apply one of several lists of stages to each sample, chosen uniformly."""

    def __init__(self, *, choices: list[list[Annotated[Stage, PartOf("degrade")]]]) -> None:
        super().__init__()
        self.choices, self._merged = choices, _merge(choices)

    def apply(self, images: list[Tensor], draws: list[Draw]) -> list[Tensor]:
        chosen = [draw.pick(range(len(self.choices))) for draw in draws]
        for stage, users in self._merged:
            rows = [row for row, choice in enumerate(chosen) if choice in users]
            if rows:
                changed = stage(canvas.subset(images, rows), [draws[row] for row in rows])
                images = canvas.replaced(images, rows, changed)
        return images


def _merge(choices: Sequence[Sequence[Stage]]) -> Merged:
    """Return the shortest list of stages that contains those of every choice in order, each with the choices it is in.

    Equal stages of several choices then process their samples together. Exact for two choices.
    """
    merged: Merged = []
    for number, stages in enumerate(choices):
        merged = list(_with(merged, stages, number))
    return merged


def _with(merged: Merged, stages: Sequence[Stage], number: int) -> Iterator[tuple[Stage, set[int]]]:
    """Add the stages of choice `number`, along their longest common subsequence with `merged`."""
    common = [[0] * (len(stages) + 1) for _ in range(len(merged) + 1)]
    for m in reversed(range(len(merged))):
        for s in reversed(range(len(stages))):
            same = _equal(merged[m][0], stages[s])
            common[m][s] = common[m + 1][s + 1] + 1 if same else max(common[m + 1][s], common[m][s + 1])
    m = s = 0
    while m < len(merged) or s < len(stages):
        if m < len(merged) and s < len(stages) and _equal(merged[m][0], stages[s]):
            yield stages[s], merged[m][1] | {number}
            m, s = m + 1, s + 1
        elif s == len(stages) or (m < len(merged) and common[m + 1][s] >= common[m][s + 1]):
            yield merged[m]
            m += 1
        else:
            yield stages[s], {number}
            s += 1


def _equal(one: Stage, other: Stage) -> bool:
    """Whether two stages do the same; those without attributes of their own, such as functions, only if identical."""
    return one is other or (type(one) is type(other) and bool(vars(one)) and vars(one) == vars(other))
