"""Two unpaired sets of images."""

from collections.abc import Callable
from typing import Annotated

from sr.config.registry import PartOf
from sr.data.source import Source


class Unpaired:
    """Unpaired images of two domains, a and b (CycleGAN).

    Each set has its own order and epochs, so their sizes may differ; crops and flips are independent. From a source of
    pairs, `a` takes the lq and `b` the gt.
    """

    def __init__(
        self,
        *,
        a: Annotated[Callable[..., Source], PartOf("sources", factory=True)],
        b: Annotated[Callable[..., Source], PartOf("sources", factory=True)],
        channels: tuple[int, int] = (3, 3),
    ) -> None:
        self.a, self.b = (side(channels=(count, count)) for side, count in zip((a, b), channels, strict=True))
