"""Sensor noise: Gaussian or Poisson, per channel or shared by all channels."""

from functools import lru_cache
from itertools import groupby

import torch
from torch import Tensor

from sr.degrade import canvas, shot
from sr.degrade.canvas import Packed
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
        if canvas.is_accelerator(images[0].device):
            amounts = [
                draw.uniform(self.sigma if bell else self.poisson_scale)
                for draw, (_, bell) in zip(draws, kinds, strict=True)
            ]
            return together(canvas.pack(images), kinds, amounts, draws)
        made = dict(enumerate(images))
        for (gray, bell), group in groupby(sorted(made, key=kinds.__getitem__), key=kinds.__getitem__):
            rows = list(group)
            amounts = [draws[row].uniform(self.sigma if bell else self.poisson_scale) for row in rows]
            add = gaussian if bell else poisson
            noisy = add([images[row] for row in rows], amounts, [draws[row] for row in rows], gray=gray)
            made.update(zip(rows, (image.clamp_(0, 1) for image in noisy), strict=True))
        return list(made.values())


def together(images: Packed, kinds: list[tuple[bool, bool]], amounts: list[float], draws: list[Draw]) -> Packed:
    """Add `gaussian` or `poisson` noise to all images with few kernels, and clamp.

    kinds: (gray, Gaussian) of each image. amounts: its sigma or scale.
    """
    whole, device = images.whole, images.whole.device
    colorful = whole.shape[1] == 3 and any(kind[0] for kind in kinds)
    gray = upload(torch.tensor([kind[0] for kind in kinds]), device)[:, None, None, None]
    levels = _levels(torch.where(gray, _luma(whole), whole) if colorful else whole)
    photons = _photons(levels, images.inside)[:, None, None, None]
    rates, fields = levels * (photons / 255), []
    for row, (draw, (height, width), (one, normal)) in enumerate(zip(draws, images.sizes, kinds, strict=True)):
        rate, generator = rates[row, : 1 if one else None, :height, :width], draw.field()
        if normal:
            fields.append(torch.randn(rate.shape, generator=generator, device=device))
        else:
            fields.append(torch.poisson(rate, generator=generator))
    # gaussian: image + sigma / 255 * field; poisson: image + scale / photons * counts - scale / 255 * levels
    table = [(a / 255, 0, 0) if normal else (a, 1, -a / 255) for a, (_, normal) in zip(amounts, kinds, strict=True)]
    factor, power, share = upload(torch.tensor(table), device)[..., None, None, None].unbind(1)
    noisy = whole.addcmul(canvas.spread(fields, images), factor / photons.pow(power))
    return images.like(noisy.addcmul_(levels, share).clamp_(0, 1))


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
    made = []
    for image, scale, draw in zip(images, scales, draws, strict=True):
        levels = _levels(_luma(image[None])[0] if gray and len(image) == 3 else image)
        photons = 1 << (_distinct(levels) - 1).bit_length()
        factor = torch.tensor(scale)
        made.append(_counts(levels, photons, draw) * (factor / photons) - levels * (factor / 255) + image)
    return made


def _levels(images: Tensor) -> Tensor:
    return (images * 255).round_().clamp_(0, 255)


def _luma(images: Tensor) -> Tensor:
    return (images * _weights(images.device)).sum(1, keepdim=True)


@lru_cache(maxsize=8)
def _weights(device: torch.device) -> Tensor:
    return upload(torch.tensor(LUMA), device)[:, None, None]


def _counts(levels: Tensor, photons: int, draw: Draw) -> Tensor:
    """Draw Poisson counts with the rates levels / 255 * photons, on a CPU."""
    return shot.counts(levels, photons, draw.field().initial_seed())


def _photons(levels: Tensor, inside: Tensor) -> Tensor:
    """Count the distinct levels of each image of [n, c, H, W], rounded up to a power of two, without a host sync."""
    bins = torch.where(inside, levels, upload(torch.tensor(256.0), levels.device)).long().flatten(1)
    distinct = levels.new_zeros(len(levels), 257).scatter_(1, bins, 1.0)[:, :256].sum(1)
    powers = upload((1 << torch.arange(9)).to(torch.float32), levels.device)
    return powers[torch.bucketize(distinct, powers)]


def _distinct(levels: Tensor) -> int:
    """The number of distinct levels, on a CPU. More than 128 in a part of the image suffice: they round up to 256."""
    few = torch.bincount(levels[:, ::8, ::8].flatten().int()).count_nonzero()
    return int(few) if few > 128 else int(torch.bincount(levels.flatten().int()).count_nonzero())
