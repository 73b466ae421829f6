"""Sensor noise: Gaussian or Poisson, per channel or shared by all channels."""

from itertools import groupby

import torch
from torch import Tensor

from sr.degrade import canvas, shot
from sr.degrade.canvas import each
from sr.degrade.draws import Draw, upload
from sr.degrade.stage import Prob, RandomStage, Range

LUMA = (0.2989, 0.587, 0.114)


class Noise(RandomStage):
    """Add Gaussian or Poisson noise and clamp to 0..1. Defaults: Real-ESRGAN's first order.

    Args:
        prob: probability that noise is added.
        gaussian_prob: probability of Gaussian noise instead of Poisson noise.
        sigma: bounds of the standard deviation of Gaussian noise, in 8-bit levels.
        poisson_scale: bounds of the factor of Poisson noise.
        gray_prob: probability that all channels share the same noise.
    """

    def __init__(
        self,
        *,
        prob: Prob = 1.0,
        gaussian_prob: Prob = 0.5,
        sigma: Range = (1.0, 30.0),
        poisson_scale: Range = (0.05, 3.0),
        gray_prob: Prob = 0.4,
    ) -> None:
        super().__init__(prob)
        self.gaussian_prob, self.sigma = gaussian_prob, sigma
        self.poisson_scale, self.gray_prob = poisson_scale, gray_prob

    def apply(self, images: list[Tensor], draws: list[Draw]) -> list[Tensor]:
        kinds = [(draw.chance(self.gray_prob), draw.chance(self.gaussian_prob)) for draw in draws]
        made = dict(enumerate(images))
        for (gray, bell), group in groupby(sorted(made, key=kinds.__getitem__), key=kinds.__getitem__):
            rows = list(group)
            amounts = [draws[row].uniform(self.sigma if bell else self.poisson_scale) for row in rows]
            add = gaussian if bell else poisson
            noisy = add([images[row] for row in rows], amounts, [draws[row] for row in rows], gray=gray)
            made.update(zip(rows, (image.clamp_(0, 1) for image in noisy), strict=True))
        return list(made.values())


def gaussian(images: list[Tensor], sigmas: list[float], draws: list[Draw], *, gray: bool) -> list[Tensor]:
    """Add Gaussian noise of standard deviation sigma / 255 to images [3, h, w]; gray: the same for all channels."""
    made = []
    for image, sigma, draw in zip(images, sigmas, draws, strict=True):
        shape = image[:1].shape if gray else image.shape
        field = torch.randn(shape, generator=draw.field(), device=image.device)
        made.append(torch.add(image, field, alpha=sigma / 255))
    return made


def poisson(images: list[Tensor], scales: list[float], draws: list[Draw], *, gray: bool) -> list[Tensor]:
    """Add Poisson noise times the scale. White is as many photons as the image has gray levels, rounded up to 2^n."""
    levels = each(_gray_levels if gray and images[0].shape[0] == 3 else _levels, images)
    photons = _photons(levels)
    counts = [_counts(*sample) for sample in zip(levels, photons, draws, strict=True)]
    return each(_with_noise, images, levels, counts, photons, torch.tensor(scales))


def _levels(images: Tensor) -> Tensor:
    return (images * 255).round_().clamp_(0, 255)


def _gray_levels(images: Tensor) -> Tensor:
    red, green, blue = images.unbind(1)
    return _levels((LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[:, None])


def _with_noise(images: Tensor, levels: Tensor, counts: Tensor, photons: Tensor, scales: Tensor) -> Tensor:
    photons, scales = photons[:, None, None, None], scales[:, None, None, None]
    return counts * (scales / photons) - levels * (scales / 255) + images


def _counts(levels: Tensor, photons: Tensor, draw: Draw) -> Tensor:
    """Draw Poisson counts with the rates levels / 255 * photons."""
    generator = draw.field()
    if not canvas.is_accelerator(levels.device):
        return shot.counts(levels, int(photons), generator.initial_seed())
    return torch.poisson(levels * (photons / 255), generator=generator)


def _photons(levels: list[Tensor]) -> Tensor:
    """The number of distinct levels of each image, rounded up to a power of two, as [n], without a host sync."""
    if not canvas.is_accelerator(levels[0].device):
        distinct = torch.tensor([_distinct(image) for image in levels])
    else:
        seen = torch.zeros(len(levels), 256, device=levels[0].device)
        for row, image in zip(seen, levels, strict=True):
            row.index_fill_(0, image.flatten().long(), 1.0)
        distinct = seen.sum(1)
    powers = upload((1 << torch.arange(9)).to(torch.float32), levels[0].device)
    return powers[torch.bucketize(distinct, powers)]


def _distinct(levels: Tensor) -> int:
    """The number of distinct levels, on a CPU. More than 128 in a part of the image suffice: they round up to 256."""
    few = torch.bincount(levels[:, ::8, ::8].flatten().int()).count_nonzero()
    return int(few) if few > 128 else int(torch.bincount(levels.flatten().int()).count_nonzero())
