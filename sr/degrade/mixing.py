"""Mixing augmentations: combine the pairs of a micro-batch on the device, without a host sync.

The partner of a sample is its neighbor in the sampling order (rows 0 and 1, 2 and 3, ...), so a mixed sample does not
depend on the number of processes as long as each micro-batch holds an even number of samples.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, NamedTuple

import torch
from pydantic import AfterValidator, Field
from torch import Tensor
from torch.nn import functional

from sr.config.ranges import ascending
from sr.data.batch import Batch
from sr.degrade.draws import Draw, draws, upload
from sr.degrade.stage import Positive, Prob

MIXING_STREAM = 13
Share = Annotated[float, Field(gt=0, lt=1)]
Shares = Annotated[tuple[Share, Share], AfterValidator(ascending)]


class Box(NamedTuple):
    """A rectangle on the grid of the LR image."""

    top: int
    left: int
    height: int
    width: int


NOWHERE = Box(0, 0, 0, 0)
Change = Callable[[Tensor, int], Tensor]


class Mixing(ABC):
    """Changes each pair with probability `prob`. `partners`: whether it needs a second sample."""

    partners: ClassVar[bool] = True

    def __init__(self, prob: float) -> None:
        self.prob = prob

    def __call__(self, batch: Batch, draws: list[Draw]) -> Batch:
        rows = [row for row, draw in enumerate(draws) if draw.chance(self.prob)]
        return self.apply(batch, {row: draws[row] for row in rows}) if rows else batch

    @abstractmethod
    def apply(self, batch: Batch, chosen: dict[int, Draw]) -> Batch:
        """Change the chosen rows, at least one. Each sample uses only its own `Draw`."""


class Mixup(Mixing):
    """Blend two pairs: weight * pair + (1 - weight) * partner, with a weight from Beta(alpha, alpha).

    Zhang et al. 2018; for super-resolution Yoo et al. 2020. The LR image is not rounded to 8 bits again.

    alpha: of the distribution; 1.2 is that of Yoo et al. Near 0, one of the pairs has almost all of the weight.
    """

    def __init__(self, *, prob: Prob = 0.5, alpha: Positive = 1.2) -> None:
        super().__init__(prob)
        self.alpha = alpha

    def apply(self, batch: Batch, chosen: dict[int, Draw]) -> Batch:
        weights = torch.zeros(len(batch.lq), 1, 1, 1)
        for row, draw in chosen.items():
            weights[row] = draw.rng.beta(self.alpha, self.alpha)
        weights = upload(weights, batch.lq.device)
        return _changed(batch, lambda image, scale: torch.lerp(image, _partners(image), weights))


class CutMix(Mixing):
    """Paste a box of the partner at the same place (Yun et al. 2019; for super-resolution Yoo et al. 2020).

    size: bounds of the sides of the box as shares of those of the image; height and width are drawn separately.
    """

    def __init__(self, *, prob: Prob = 0.5, size: Shares = (0.3, 0.7)) -> None:
        super().__init__(prob)
        self.size = size

    def apply(self, batch: Batch, chosen: dict[int, Draw]) -> Batch:
        boxes = [_box(chosen[row], self.size) if row in chosen else NOWHERE for row in range(len(batch.lq))]
        corners = upload(torch.tensor(boxes), batch.lq.device)
        return _changed(
            batch, lambda image, scale: torch.where(_inside(corners * scale, image), _partners(image), image)
        )


class ResizeMix(Mixing):
    """Paste the whole partner, made smaller, at a random place (Qin et al. 2020).

    size: bounds of the factor by which the partner's LR and HR image are both resized (bicubic with antialiasing).
    """

    def __init__(self, *, prob: Prob = 0.5, size: Shares = (0.1, 0.8)) -> None:
        super().__init__(prob)
        self.size = size

    def apply(self, batch: Batch, chosen: dict[int, Draw]) -> Batch:
        boxes = {row: _box(draw, self.size, square=True) for row, draw in chosen.items()}

        def pasted(image: Tensor, scale: int) -> Tensor:
            made = image.clone()
            for row, box in boxes.items():
                top, left, height, width = (length * scale for length in box)
                made[row, :, top : top + height, left : left + width] = _resized(image[row ^ 1], (height, width))
            return made

        return _changed(batch, pasted)


class CutBlur(Mixing):
    """Replace a box of the LR image, or all around it, by the downscaled HR image (Yoo et al. 2020).

    The network learns where, and how much, to restore. HR image and target stay. The downscaling is bicubic.
    size: bounds of the sides of the box as shares of those of the image; height and width are drawn separately.
    """

    partners = False

    def __init__(self, *, prob: Prob = 0.5, size: Shares = (0.3, 0.7)) -> None:
        super().__init__(prob)
        self.size = size

    def apply(self, batch: Batch, chosen: dict[int, Draw]) -> Batch:
        boxes, around = [NOWHERE] * len(batch.lq), torch.zeros(len(batch.lq), 1, 1, 1, dtype=torch.bool)
        for row, draw in chosen.items():
            boxes[row], around[row] = _box(draw, self.size), draw.chance(0.5)
        corners, flips = upload(torch.tensor(boxes), batch.lq.device), upload(around, batch.lq.device)
        clean = _resized(batch.gt, batch.lq.shape[-2:])
        return replace(batch, lq=torch.where(_inside(corners, batch.lq) ^ flips, clean, batch.lq))


class Mixer:
    """Apply mixing augmentations in order; (seed, position) decides all draws of a sample."""

    def __init__(self, steps: Sequence[Mixing], *, seed: int) -> None:
        self.steps, self.seed = list(steps), seed
        self.partners = any(step.partners for step in steps)

    @torch.no_grad()
    def __call__(self, batch: Batch, positions: Sequence[int]) -> Batch:
        height, width = batch.lq.shape[-2:]
        keyed = draws(self.seed, MIXING_STREAM, positions, lq_size=(height, width), device=batch.lq.device)
        for step in self.steps:
            batch = step(batch, keyed)
        return batch


def _changed(batch: Batch, change: Change) -> Batch:
    """Apply change(image, pixels per LR pixel) to both images of the pairs. A target that is gt itself stays so."""
    scale = batch.gt.shape[-1] // batch.lq.shape[-1]
    gt = change(batch.gt, scale)
    return Batch(lq=change(batch.lq, 1), gt=gt, target=gt if batch.target is batch.gt else change(batch.target, scale))


def _partners(images: Tensor) -> Tensor:
    """[n, c, h, w] with rows 0 and 1, 2 and 3, ... exchanged."""
    return images.index_select(0, torch.arange(len(images), device=images.device) ^ 1)


def _box(draw: Draw, size: tuple[float, float], *, square: bool = False) -> Box:
    """A box of random size and place; square: with the aspect ratio of the image."""
    shares = [draw.uniform(size)] * 2 if square else [draw.uniform(size), draw.uniform(size)]
    sides = [max(1, round(share * length)) for share, length in zip(shares, draw.lq_size, strict=True)]
    top, left = (int(draw.rng.integers(length - side + 1)) for side, length in zip(sides, draw.lq_size, strict=True))
    return Box(top, left, *sides)


def _inside(boxes: Tensor, images: Tensor) -> Tensor:
    """Masks [n, 1, h, w] of the pixels inside of boxes [n, 4]."""
    top, left, height, width = boxes.view(-1, 4, 1, 1, 1).unbind(1)
    rows, columns = (torch.arange(length, device=images.device) for length in images.shape[-2:])
    rows = rows[:, None]
    return (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)


def _resized(images: Tensor, size: Sequence[int]) -> Tensor:
    """Resize [c, h, w] or [n, c, h, w] with antialiasing; the overshoot of the cubic kernel is clamped."""
    many = images if images.ndim == 4 else images[None]
    made = functional.interpolate(many, size=tuple(size), mode="bicubic", antialias=True).clamp_(0, 1)
    return made if images.ndim == 4 else made[0]
