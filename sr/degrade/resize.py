"""Random resizing, and the final resize to the LR size."""

from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from sr.core.errors import UserError
from sr.degrade import canvas
from sr.degrade.bands import Band, band, separable
from sr.degrade.canvas import Packed
from sr.degrade.draws import Draw, upload
from sr.degrade.stage import AroundOne, Prob, RandomStage
from sr.images import bicubic

Mode = Literal["area", "bilinear", "bicubic", "nearest", "lanczos"]
MODES: list[Mode] = ["area", "bilinear", "bicubic"]
LOBES = 3


class Plan(NamedTuple):
    """How an image is resized: to `size`, or by `factor` (sides are rounded down; the grid uses the exact factor).

    mode: a `Mode`, or "matlab" for MATLAB's bicubic with antialiasing.
    """

    mode: str
    size: tuple[int, int] | None = None
    factor: float | None = None

    def axis(self, axis: int, side: int) -> tuple[int, float]:
        """Return the new length of a side, and the distance of two outputs in pixels of the input."""
        if self.size is not None:
            return self.size[axis], side / self.size[axis]
        assert self.factor is not None
        return int(side * self.factor), 1 / self.factor


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
        return resized(images, [self._plan(draw) for draw in draws])

    def _plan(self, draw: Draw) -> Plan:
        factor = self._factor(draw)
        mode = draw.pick(self.modes)
        if self.relative_to == "lq":
            height, width = draw.lq_size
            return Plan(mode, size=(max(1, int(height * factor)), max(1, int(width * factor))))
        return Plan(mode, factor=factor)

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
        return resized(images, [Plan(self._mode(draw), size=draw.lq_size) for draw in draws])

    def _mode(self, draw: Draw) -> str:
        if self.mode == "bicubic":
            return "matlab"
        return draw.pick(MODES) if self.mode == "random" else self.mode.removesuffix("_plain")


def resized(images: list[Tensor], plans: list[Plan]) -> list[Tensor]:
    """Resize each image [c, h, w] by its plan."""
    if canvas.is_accelerator(images[0].device):
        return _together(canvas.pack(images), plans)
    return [_alone(image, plan) for image, plan in zip(images, plans, strict=True)]


def _alone(image: Tensor, plan: Plan) -> Tensor:
    sides = image.shape[-2:]
    if plan.size == tuple(sides) or plan.factor == 1:
        return image  # all weights would be 1
    if plan.mode == "matlab":
        return bicubic.resize(image, size=plan.size)
    if plan.mode == "lanczos":
        down, across = (_lanczos(side, *plan.axis(axis, side)) for axis, side in enumerate(sides))
        return (down @ image.double() @ across.T).to(image.dtype).clamp_(0, 1)
    if plan.mode in ("bilinear", "nearest"):
        mode = plan.mode.replace("nearest", "nearest-exact")
        return functional.interpolate(image[None], size=plan.size, scale_factor=plan.factor, mode=mode)[0]
    rows, columns = (_band(plan.mode, side, *plan.axis(axis, side)) for axis, side in enumerate(sides))
    return separable(image[None], rows, columns)[0]


def _together(images: Packed, plans: list[Plan]) -> Packed:
    """Resize all images by two products with matrices, whose weights are made on the host."""
    if all(plan.size == size or plan.factor == 1 for plan, size in zip(plans, images.sizes, strict=True)):
        return images
    whole, modes = images.whole, [plan.mode for plan in plans]
    count, channels, *sides = whole.shape
    made, parts, before, sizes, given = [], [], 0, [], None
    for axis, side in enumerate(sides):
        lengths = [size[axis] for size in images.sizes]
        outs, steps = zip(*(plan.axis(axis, old) for plan, old in zip(plans, lengths, strict=True)), strict=True)
        if (lengths, outs, steps) != given:  # else the images are squares
            given = lengths, outs, steps
            owner, place, index, weight = _entries(modes, *map(np.array, given))
        shape = (canvas.up(max(outs)), side) if axis == 0 else (side, canvas.up(max(outs)))
        row, column = (place, index) if axis == 0 else (index, place)
        parts.append((before + (owner * shape[0] + row) * shape[1] + column, weight))
        made.append((count, *shape))
        before += count * shape[0] * shape[1]
        sizes.append(outs)
    joined = (torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True))
    places, weights = (upload(part, whole.device) for part in joined)
    dense = whole.new_zeros(before).scatter_(0, places, weights.to(whole.dtype))
    rows, columns = (
        part.view(shape) for part, shape in zip(dense.split([a * b * c for a, b, c in made]), made, strict=True)
    )
    rows = rows[:, None].expand(-1, channels, -1, -1).flatten(0, 1)
    wide = torch.bmm(rows, whole.flatten(0, 1)).view(count, -1, sides[1])
    new = torch.bmm(wide, columns).view(count, channels, -1, columns.shape[-1])
    if "lanczos" in modes:
        overshoots = upload(torch.tensor([mode == "lanczos" for mode in modes]), whole.device)
        new = torch.where(overshoots[:, None, None, None], new.clamp(0, 1), new)
    return Packed(new, list(zip(*sizes, strict=True)), clean=True)


# ---- weights ---------------------------------------------------------------------------------------------------------

Array = np.ndarray[Any, Any]


def _entries(modes: list[str], n_in: Array, n_out: Array, step: Array) -> tuple[Array, ...]:
    """The nonzero weights of one axis of all images: image, output, input (int64) and weight (float32), all [entries].

    No entry occurs twice. Computed on the host, where a GPU would launch dozens of small kernels.
    """
    found = []
    for mode in sorted(set(modes)):
        own = np.array([row for row, other in enumerate(modes) if other == mode])
        if mode in ("matlab", "lanczos"):
            for row in own:
                sides = int(n_in[row]), int(n_out[row])
                dense = (bicubic.matrix(*sides) if mode == "matlab" else _lanczos(*sides, float(step[row]))).numpy()
                place, index = dense.nonzero()
                found.append((np.full_like(place, row), place, index, dense[place, index]))
            continue
        counts = n_out[own]
        owner = own.repeat(counts)
        place = np.arange(len(owner)) - (counts.cumsum() - counts).repeat(counts)
        inputs, outputs, steps = (given[owner, None] for given in (n_in, n_out, step))
        index, weight = TAPS[mode](place[:, None], inputs, outputs, steps)
        low, high = index < 0, index >= inputs
        weight = weight + (weight * low).sum(1, keepdims=True) * (index == 0)  # outside, the border is repeated
        weight = weight + (weight * high).sum(1, keepdims=True) * (index == inputs - 1)
        row, tap = (~(low | high) & (weight != 0)).nonzero()
        found.append((owner[row], place[row], index[row, tap], weight[row, tap]))
    owner, place, index, weight = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return owner, place, index, weight.astype(np.float32)


def _area(place: Array, n_in: Array, n_out: Array, step: Array) -> tuple[Array, Array]:
    """Area interpolation: the mean of the inputs that an output covers, which as in torch depends on the sizes only."""
    first, last = place * n_in // n_out, -((place + 1) * n_in // -n_out)
    indices = first + np.arange((last - first).max())
    return indices, (indices < last) / (last - first)


def _linear(place: Array, n_in: Array, n_out: Array, step: Array) -> tuple[Array, Array]:
    centre = (place + 0.5) * step - 0.5
    indices = np.floor(centre) + np.arange(2)
    return indices.astype(np.int64), 1 - np.abs(centre - indices)


def _cubic(place: Array, n_in: Array, n_out: Array, step: Array) -> tuple[Array, Array]:
    """Keys' cubic kernel with a = -0.75 and replicated borders, as in torch."""
    centre = (place + 0.5) * step - 0.5
    indices = np.floor(centre) + np.arange(-1, 3)
    x = np.abs(centre - indices)
    near, far = (1.25 * x - 2.25) * x * x + 1, ((-0.75 * x + 3.75) * x - 6) * x + 3
    return indices.astype(np.int64), np.where(x <= 1, near, far)


def _nearest(place: Array, n_in: Array, n_out: Array, step: Array) -> tuple[Array, Array]:
    return np.floor((place + 0.5) * step).astype(np.int64), np.ones_like(place, dtype=np.float64)


TAPS: dict[str, Callable[..., tuple[Array, Array]]] = {
    "area": _area,
    "bilinear": _linear,
    "bicubic": _cubic,
    "nearest": _nearest,
}
"""Output [N, 1], sides and step -> indices of inputs, maybe outside, and their float64 weights, both [N, taps]."""


@lru_cache(maxsize=64)
def _band(mode: str, n_in: int, n_out: int, step: float) -> Band:
    indices, weights = TAPS[mode](np.arange(n_out)[:, None], n_in, n_out, step)
    return band(torch.from_numpy(indices.clip(0, n_in - 1)), torch.from_numpy(weights))


@lru_cache(maxsize=64)
def _lanczos(n_in: int, n_out: int, step: float) -> Tensor:
    """Pillow's Lanczos weights, float64 [n_out, n_in]: stretched when downscaling, normalized at the borders."""
    stretch = max(step, 1.0)
    outputs, inputs = (torch.arange(n, dtype=torch.float64) + 0.5 for n in (n_out, n_in))
    x = (outputs[:, None] * step - inputs) / stretch
    weights = torch.sinc(x) * torch.sinc(x / LOBES) * (x.abs() < LOBES)
    return weights / weights.sum(1, keepdim=True)
