"""Random resizing, and the final resize to the LR size."""

from functools import lru_cache
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from sr.core.errors import UserError
from sr.degrade import canvas
from sr.degrade.bands import Band, band, separable
from sr.degrade.draws import Draw
from sr.degrade.stage import AroundOne, Prob, RandomStage
from sr.images import bicubic

Mode = Literal["area", "bilinear", "bicubic", "nearest", "lanczos"]
MODES: list[Mode] = ["area", "bilinear", "bicubic"]
LOBES = 3


class Resize(RandomStage):
    """Resize by a random factor, without antialiasing except for `lanczos`. Defaults: Real-ESRGAN's first order.

    Args:
        up_prob, down_prob: probabilities of a factor from 1..range[1] and from range[0]..1; otherwise it is 1.
        range: smallest and largest factor.
        modes: interpolation modes, chosen uniformly. `lanczos` is Pillow's, with antialiasing; `nearest` takes the
            pixel at the center.
        relative_to: the factor applies to the `current` size or to the `lq` size (factor 1 then gives the LR size).
    """

    def __init__(
        self,
        *,
        up_prob: Prob = 0.2,
        down_prob: Prob = 0.7,
        range: AroundOne = (0.15, 1.5),
        modes: Annotated[list[Mode], Field(min_length=1)] = MODES,
        relative_to: Literal["current", "lq"] = "current",
    ) -> None:
        super().__init__()
        if up_prob + down_prob > 1:
            raise UserError(
                f"resize: up_prob {up_prob} and down_prob {down_prob} sum to more than 1; lower one of them"
            )
        self.up_prob, self.down_prob, self.range = up_prob, down_prob, range
        self.modes, self.relative_to = modes, relative_to

    def apply(self, images: list[Tensor], draws: list[Draw]) -> list[Tensor]:
        return [self._resized(image, draw) for image, draw in zip(images, draws, strict=True)]

    def _resized(self, image: Tensor, draw: Draw) -> Tensor:
        factor = self._factor(draw)
        mode = draw.pick(self.modes)
        if self.relative_to == "lq":
            height, width = draw.lq_size
            return interpolate(image, mode, size=(max(1, int(height * factor)), max(1, int(width * factor))))
        return interpolate(image, mode, factor=factor)

    def _factor(self, draw: Draw) -> float:
        value = draw.rng.random()
        if value < self.up_prob:
            return draw.uniform((1.0, self.range[1]))
        if value < self.up_prob + self.down_prob:
            return draw.uniform((self.range[0], 1.0))
        return 1.0


class Downscale(RandomStage):
    """Resize to exactly the LR size. Every list of stages needs this.

    Args:
        mode: `bicubic` is MATLAB's with antialiasing, the classical degradation of papers; `area`, `bilinear` and
            `bicubic_plain` interpolate without antialiasing; `random` chooses one of those three, as Real-ESRGAN does.
            `lanczos` is Pillow's, with antialiasing; `nearest` takes the pixel at the center.
    """

    def __init__(
        self,
        *,
        mode: Literal["random", "bicubic", "area", "bilinear", "bicubic_plain", "nearest", "lanczos"] = "random",
    ) -> None:
        super().__init__()
        self.mode = mode

    def apply(self, images: list[Tensor], draws: list[Draw]) -> list[Tensor]:
        return [self._resized(image, draw) for image, draw in zip(images, draws, strict=True)]

    def _resized(self, image: Tensor, draw: Draw) -> Tensor:
        if self.mode == "bicubic":
            return bicubic.resize(image, size=draw.lq_size)
        mode = draw.pick(MODES) if self.mode == "random" else self.mode.removesuffix("_plain")
        return interpolate(image, mode, size=draw.lq_size)


def interpolate(
    image: Tensor, mode: str, *, size: tuple[int, int] | None = None, factor: float | None = None
) -> Tensor:
    """Resize [c, h, w] to `size`, or by `factor` (sides are rounded down; the sampling grid uses the exact factor)."""
    sides = image.shape[-2:]
    if size == tuple(sides) or factor == 1:
        return image  # all weights would be 1
    if mode == "nearest":
        return functional.interpolate(image[None], size=size, scale_factor=factor, mode="nearest-exact")[0]
    height, width = size or (int(side * (factor or 1)) for side in sides)
    if mode == "lanczos":
        down, across = (_lanczos(o, n, factor, image.device) for o, n in zip(sides, (height, width), strict=True))
        return (down @ image.double() @ across.T).to(image.dtype).clamp_(0, 1)
    if canvas.is_accelerator(image.device) or mode == "bilinear":
        return functional.interpolate(image[None], size=size, scale_factor=factor, mode=mode)[0]
    taps = _area if mode == "area" else _cubic
    rows, columns = (taps(old, new, factor) for old, new in zip(sides, (height, width), strict=True))
    return separable(image[None], rows, columns)[0]


@lru_cache(maxsize=64)
def _area(n_in: int, n_out: int, factor: float | None) -> Band:
    """Area interpolation: the mean of the inputs that an output covers, which as in torch depends on the sizes only."""
    place = torch.arange(n_out)[:, None]
    first, last = place * n_in // n_out, -((place + 1) * n_in // -n_out)
    indices = first + torch.arange(int((last - first).max()))
    weights = (indices < last) / (last - first).double()
    return band(indices.clamp(max=n_in - 1), weights)


@lru_cache(maxsize=64)
def _cubic(n_in: int, n_out: int, factor: float | None) -> Band:
    """Keys' cubic kernel with a = -0.75 and replicated borders, as in torch."""
    step = n_in / n_out if factor is None else 1 / factor
    centre = (torch.arange(n_out, dtype=torch.float64)[:, None] + 0.5) * step - 0.5
    indices = centre.floor() + torch.arange(-1, 3)
    x = (centre - indices).abs()
    near, far = (1.25 * x - 2.25) * x * x + 1, ((-0.75 * x + 3.75) * x - 6) * x + 3
    return band(indices.long().clamp(0, n_in - 1), torch.where(x <= 1, near, far))


def _lanczos(n_in: int, n_out: int, factor: float | None, device: torch.device) -> Tensor:
    """Pillow's Lanczos weights, float64 [n_out, n_in]: stretched when downscaling, normalized at the borders.

    A product in float64 does not depend on the TF32 settings.
    """
    step = n_in / n_out if factor is None else 1 / factor
    stretch = max(step, 1.0)
    outputs, inputs = (torch.arange(n, dtype=torch.float64, device=device) + 0.5 for n in (n_out, n_in))
    x = (outputs[:, None] * step - inputs) / stretch
    weights = torch.sinc(x) * torch.sinc(x / LOBES) * (x.abs() < LOBES)
    return weights / weights.sum(1, keepdim=True)
