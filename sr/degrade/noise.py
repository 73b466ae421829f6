"""Sensor noise: Gaussian or Poisson, per channel or gray."""

from itertools import groupby

import torch
from torch import Tensor

from sr.degrade import canvas, shot
from sr.degrade.canvas import each
from sr.degrade.draws import Draw, upload
from sr.degrade.stage import Chosen, Prob, Range

LUMA = (0.2989, 0.587, 0.114)


class Noise(Chosen):
    """Add Gaussian (chance gaussian_prob) or Poisson noise and clamp. Defaults: Real-ESRGAN's first order.

    sigma: standard deviation in 8-bit levels. poisson_scale: factor on the shot noise. gray_prob: chance that the
    channels share one noise.
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
    """[3, h, w] each, with noise of standard deviation sigma / 255; the same in all channels where gray."""
    made = []
    for image, sigma, draw in zip(images, sigmas, draws, strict=True):
        shape = image[:1].shape if gray else image.shape
        field = torch.randn(shape, generator=draw.field(), device=image.device)
        made.append(torch.add(image, field, alpha=sigma / 255))
    return made


def poisson(images: list[Tensor], scales: list[float], draws: list[Draw], *, gray: bool) -> list[Tensor]:
    """Shot noise times the scale: photons are counted in as many levels as the image has grays, rounded up to 2^n."""
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
    """Poisson counts of the rates levels / 255 * photons, drawn by the sample's own generator."""
    generator = draw.field()
    if not canvas.together(levels.device):
        return shot.counts(levels, int(photons), generator.initial_seed())
    return torch.poisson(levels * (photons / 255), generator=generator)


def _photons(levels: list[Tensor]) -> Tensor:
    """[n]: the least power of two that is not below the image's distinct levels; found without asking the device."""
    if not canvas.together(levels[0].device):
        distinct = torch.tensor([_distinct(image) for image in levels])
    else:
        seen = torch.zeros(len(levels), 256, device=levels[0].device)
        for row, image in zip(seen, levels, strict=True):
            row.index_fill_(0, image.flatten().long(), 1.0)
        distinct = seen.sum(1)
    powers = upload((1 << torch.arange(9)).to(torch.float32), levels[0].device)
    return powers[torch.bucketize(distinct, powers)]


def _distinct(levels: Tensor) -> int:
    """Number of distinct levels, on a CPU. Where a part of the image has more than 128, the rest says no more."""
    few = torch.bincount(levels[:, ::8, ::8].flatten().int()).count_nonzero()
    return int(few) if few > 128 else int(torch.bincount(levels.flatten().int()).count_nonzero())
