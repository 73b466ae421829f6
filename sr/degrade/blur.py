"""Blur with random kernels, and the final sinc filter."""

import math
from abc import abstractmethod
from typing import Annotated

from pydantic import AfterValidator
from torch import Tensor

from sr.config.ranges import odd_ascending, some_share
from sr.degrade import kernels
from sr.degrade.draws import Draw
from sr.degrade.filters import filter2d
from sr.degrade.kernels import BellKernel, Kind, SincKernel
from sr.degrade.stage import AroundOne, NotNegative, PositiveRange, Prob, RandomStage

Sizes = Annotated[tuple[int, int], AfterValidator(odd_ascending)]

KINDS: dict[Kind, float] = {
    "iso": 0.45,
    "aniso": 0.25,
    "generalized_iso": 0.12,
    "generalized_aniso": 0.03,
    "plateau_iso": 0.12,
    "plateau_aniso": 0.03,
}


class _Filter(RandomStage):
    """Filter each sample with a random kernel, of a size within `sizes`."""

    sizes: tuple[int, int]

    def apply(self, images: list[Tensor], draws: list[Draw]) -> list[Tensor]:
        return filter2d(images, kernels.synthesize([self.shape(draw) for draw in draws], self.sizes[1]).float())

    @abstractmethod
    def shape(self, draw: Draw) -> BellKernel | SincKernel: ...

    def size(self, draw: Draw) -> int:
        return draw.pick(range(self.sizes[0], self.sizes[1] + 1, 2))


class Blur(_Filter):
    """Blur with a kernel of random kind, size and shape. Defaults: Real-ESRGAN's first order.

    Args:
        prob: probability that a sample is blurred.
        kinds: relative frequencies of the bell-shaped kernels.
        sinc_prob: probability of a sinc kernel instead.
        sizes: smallest and largest side of the kernel in pixels, both odd.
        sigma: bounds of the standard deviation in pixels, drawn for each axis.
        beta_gaussian, beta_plateau: bounds of the exponent; half of the draws are below 1.
    """

    def __init__(
        self,
        *,
        prob: Prob = 1.0,
        kinds: Annotated[dict[Kind, NotNegative], AfterValidator(some_share)] = KINDS,
        sinc_prob: Prob = 0.1,
        sizes: Sizes = (7, 21),
        sigma: PositiveRange = (0.2, 3.0),
        beta_gaussian: AroundOne = (0.5, 4.0),
        beta_plateau: AroundOne = (1.0, 2.0),
    ) -> None:
        super().__init__(prob)
        self.kinds, self.sinc_prob, self.sizes = kinds, sinc_prob, sizes
        self.sigma, self.beta_gaussian, self.beta_plateau = sigma, beta_gaussian, beta_plateau

    def shape(self, draw: Draw) -> BellKernel | SincKernel:
        size = self.size(draw)
        if draw.chance(self.sinc_prob):
            lowest = math.pi / 3 if size < 13 else math.pi / 5  # a small kernel cannot hold the rings of a low cutoff
            return SincKernel(size, draw.uniform((lowest, math.pi)))
        kind = draw.pick(list(self.kinds), list(self.kinds.values()))
        sigma_x = sigma_y = draw.uniform(self.sigma)
        rotation = 0.0
        if kind.endswith("aniso"):
            sigma_y = draw.uniform(self.sigma)
            rotation = draw.uniform((-math.pi, math.pi))
        plateau = kind.startswith("plateau")
        beta = 1.0
        if plateau or kind.startswith("generalized"):
            beta = _beta(draw, self.beta_plateau if plateau else self.beta_gaussian)
        return BellKernel(size, sigma_x, sigma_y, rotation, beta, plateau)


class Sinc(_Filter):
    """Add ringing with a sinc kernel, cutoff from pi/3 to pi. Defaults: Real-ESRGAN's last filter."""

    def __init__(self, *, prob: Prob = 0.8, sizes: Sizes = (7, 21)) -> None:
        super().__init__(prob)
        self.sizes = sizes

    def shape(self, draw: Draw) -> BellKernel | SincKernel:
        size = self.size(draw)
        return SincKernel(size, draw.uniform((math.pi / 3, math.pi)))


def _beta(draw: Draw, bounds: tuple[float, float]) -> float:
    return draw.uniform((bounds[0], 1.0) if draw.chance(0.5) else (1.0, bounds[1]))
