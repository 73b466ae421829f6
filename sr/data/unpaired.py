"""Two sets of images without pairs."""

from collections.abc import Callable
from typing import Annotated

from sr.config.registry import PartOf
from sr.data.source import Source


class Unpaired:
    """Images of two kinds, a and b, that do not belong together (CycleGAN).

    Each comes in its own order, once in its own epoch, so the sets may differ in size; crops and flips are drawn for
    each by itself. Where a source has pairs, `a` takes their a (the lq) and `b` their b (the gt).
    """

    def __init__(
        self,
        *,
        a: Annotated[Callable[..., Source], PartOf("sources", factory=True)],
        b: Annotated[Callable[..., Source], PartOf("sources", factory=True)],
        channels: tuple[int, int] = (3, 3),
    ) -> None:
        self.a, self.b = (side(channels=(count, count)) for side, count in zip((a, b), channels, strict=True))
