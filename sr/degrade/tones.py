"""Artifacts of printed and scanned drawings (manga): screentone, dithering, and halos along lines."""

import math
from functools import lru_cache
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from sr.config.ranges import ascending, some_share
from sr.degrade import kernels
from sr.degrade.canvas import each
from sr.degrade.draws import Draw
from sr.degrade.filters import filter2d
from sr.degrade.jpeg import LUMA
from sr.degrade.kernels import BellKernel
from sr.degrade.stage import NotNegative, PositiveRange, Prob, RandomStage, Range

Pattern = Literal["dots", "lines"]
Threshold = Literal["bayer", "random"]
Overshoot = Literal["both", "light", "dark"]
Levels = Annotated[int, Field(ge=2, le=64)]
Period = Annotated[float, Field(ge=2)]
Side = Annotated[float, Field(ge=0.1, le=10)]


class Screentone(RandomStage):
    """Replace shades by black dots or lines on white, as in printed manga. Black and white stay.

    Args:
        period: bounds of the distance of dots or lines in pixels, at least 2.
        angle: bounds of the rotation of the pattern in degrees.
        patterns: relative frequencies of dots and lines.
        softness: bounds of the width of the edge of a dot; 0 is hard, 1 keeps the shades.
        gray_prob: probability of a gray pattern; otherwise red, green and blue have one each, rotated by 30 degrees.
    """

    def __init__(
        self,
        *,
        prob: Prob = 0.5,
        period: Annotated[tuple[Period, Period], AfterValidator(ascending)] = (3.0, 8.0),
        angle: Range = (0.0, 90.0),
        patterns: Annotated[dict[Pattern, NotNegative], AfterValidator(some_share)] = {"dots": 0.8, "lines": 0.2},  # noqa: B006
        softness: Range = (0.05, 0.3),
        gray_prob: Prob = 0.8,
    ) -> None:
        super().__init__(prob)
        self.period, self.angle, self.patterns = period, angle, patterns
        self.softness, self.gray_prob = softness, gray_prob

    def apply(self, images: list[Tensor], draws: list[Draw]) -> list[Tensor]:
        return each(_screened, images, torch.tensor([self._drawn(draw) for draw in draws]))

    def _drawn(self, draw: Draw) -> list[float]:
        """Frequency, angle, whether lines, softness, whether gray, and the place of the pattern."""
        angle = math.radians(draw.uniform(self.angle))
        lines = draw.pick(list(self.patterns), list(self.patterns.values())) == "lines"
        row = [2 * math.pi / draw.uniform(self.period), angle, float(lines), max(draw.uniform(self.softness), 1e-3)]
        return [*row, float(draw.chance(self.gray_prob)), *(draw.uniform((0, 2 * math.pi)) for _ in range(2))]


class Dither(RandomStage):
    """Reduce each channel to a few levels with ordered (Bayer 8 x 8) or random dithering.

    For error diffusion see `palette`.

    Args:
        levels: bounds of the number of levels of a channel, in 2..64; drawn uniformly on a logarithmic scale.
        patterns: relative frequencies of the thresholds.
    """

    def __init__(
        self,
        *,
        prob: Prob = 0.5,
        levels: Annotated[tuple[Levels, Levels], AfterValidator(ascending)] = (4, 32),
        patterns: Annotated[dict[Threshold, NotNegative], AfterValidator(some_share)] = {"bayer": 0.7, "random": 0.3},  # noqa: B006
    ) -> None:
        super().__init__(prob)
        self.levels, self.patterns = levels, patterns

    def apply(self, images: list[Tensor], draws: list[Draw]) -> list[Tensor]:
        low, high = (math.log2(level) for level in self.levels)
        steps = torch.tensor([round(2 ** draw.uniform((low, high))) - 1.0 for draw in draws])
        thresholds = [self._threshold(image, draw) for image, draw in zip(images, draws, strict=True)]
        return each(_dithered, images, thresholds, steps)

    def _threshold(self, image: Tensor, draw: Draw) -> Tensor:
        height, width = image.shape[-2:]
        if draw.pick(list(self.patterns), list(self.patterns.values())) == "random":
            return torch.rand(1, height, width, generator=draw.field(), device=image.device)
        return _bayer(image.device).repeat(-(height // -8), -(width // -8))[None, :height, :width]


class Halo(RandomStage):
    """Add bright and dark borders along edges, as of too much sharpening or of an old scan.

    The difference from a Gaussian blur is added, times `amount`, and the result is clamped to 0..1.

    Args:
        amount: bounds of the factor.
        sigma: bounds of the standard deviation of the blur in pixels, at most 10: half of the width of the border.
        sides: relative frequencies of borders on both sides of an edge, on its light side, and on its dark side.
    """

    def __init__(
        self,
        *,
        prob: Prob = 0.5,
        amount: PositiveRange = (0.5, 2.0),
        sigma: Annotated[tuple[Side, Side], AfterValidator(ascending)] = (0.8, 3.0),
        sides: Annotated[dict[Overshoot, NotNegative], AfterValidator(some_share)] = {  # noqa: B006
            "both": 0.6,
            "light": 0.2,
            "dark": 0.2,
        },
    ) -> None:
        super().__init__(prob)
        self.amount, self.sigma, self.sides = amount, sigma, sides

    def apply(self, images: list[Tensor], draws: list[Draw]) -> list[Tensor]:
        side = 2 * math.ceil(3 * self.sigma[1]) + 1
        bells, factors = [], []
        for draw in draws:
            sigma, amount = draw.uniform(self.sigma), draw.uniform(self.amount)
            bells.append(BellKernel(side, sigma, sigma))
            kind = draw.pick(list(self.sides), list(self.sides.values()))
            factors.append([0.0 if kind == "dark" else amount, 0.0 if kind == "light" else amount])
        smooth = filter2d(images, kernels.synthesize(bells, side).float())
        return each(_sharpened, images, smooth, torch.tensor(factors))


def _screened(images: Tensor, drawn: Tensor) -> Tensor:
    frequency, angle, lines, softness, gray, right, down = drawn.view(-1, 7, 1, 1, 1).unbind(1)
    channels = images.shape[1]
    y, x = (torch.arange(side, device=images.device, dtype=images.dtype) for side in images.shape[-2:])
    angle = angle + (1 - gray) * math.pi / 6 * torch.arange(channels, device=images.device)[:, None, None]
    cos, sin, y = torch.cos(angle) * frequency, torch.sin(angle) * frequency, y[:, None]
    u, v = x * cos + y * sin + right, y * cos - x * sin + down
    dots, stripes = (2 + torch.cos(u) + torch.cos(v)) / 4, (1 - torch.cos(u)).div(2).sqrt().arcsin() * (2 / math.pi)
    spot = torch.lerp(dots, stripes, lines)
    tone = images
    if channels == 3:
        red, green, blue = images.unbind(1)
        tone = torch.lerp(images, (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[:, None], gray)
    # 0 stays black and 1 stays white: the threshold runs over the width of the edge too.
    return ((tone * (1 + softness) - spot) / softness).clamp_(0, 1)


def _dithered(images: Tensor, thresholds: Tensor, steps: Tensor) -> Tensor:
    steps = steps[:, None, None, None]
    return ((images.clamp(0, 1) * steps + thresholds).floor_() / steps).clamp_(0, 1)


def _sharpened(images: Tensor, smooth: Tensor, factors: Tensor) -> Tensor:
    light, dark = factors.view(-1, 2, 1, 1, 1).unbind(1)
    detail = images - smooth
    return (images + detail.clamp(min=0) * light + detail.clamp(max=0) * dark).clamp_(0, 1)


@lru_cache(maxsize=8)
def _bayer(device: torch.device) -> Tensor:
    """Bayer's thresholds (1973), [8, 8] in 0..1 exclusive."""
    made = torch.zeros(1, 1)
    for _ in range(3):
        made = torch.cat([torch.cat([4 * made, 4 * made + 2], 1), torch.cat([4 * made + 3, 4 * made + 1], 1)])
    return ((made + 0.5) / 64).to(device)
