"""Sensor noise: Gaussian or Poisson, per channel or gray."""

import torch
from torch import Tensor

from sr.degrade.draws import Draw
from sr.degrade.stage import PerSample, Prob, Range

LUMA = (0.2989, 0.587, 0.114)


class Noise(PerSample):
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

    def apply(self, image: Tensor, draw: Draw) -> Tensor:
        gray = draw.chance(self.gray_prob)
        if draw.chance(self.gaussian_prob):
            noise = gaussian(image, sigma=draw.uniform(self.sigma), gray=gray, generator=draw.field())
        else:
            noise = poisson(image, scale=draw.uniform(self.poisson_scale), gray=gray, generator=draw.field())
        return (image + noise).clamp(0, 1)


def gaussian(image: Tensor, *, sigma: float, gray: bool, generator: torch.Generator) -> Tensor:
    """Noise of standard deviation sigma / 255, shaped like `image` [3, h, w], or [1, h, w] where gray."""
    shape = image[:1].shape if gray else image.shape
    return torch.randn(shape, generator=generator, device=image.device) * (sigma / 255)


def poisson(image: Tensor, *, scale: float, gray: bool, generator: torch.Generator) -> Tensor:
    """Shot noise times `scale`: photons are counted in as many levels as the picture has grays, rounded up to 2^n."""
    if gray:
        red, green, blue = image.unbind(0)
        image = (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[None]
    levels = (image * 255).round().clamp(0, 255)
    image = levels / 255
    photons = _photons(levels)
    return (torch.poisson(image * photons, generator=generator) / photons - image) * scale


def _photons(levels: Tensor) -> Tensor:
    """The least power of two that is not below the number of distinct levels; found without asking the device."""
    seen = torch.zeros(256, device=levels.device).index_fill_(0, levels.flatten().long(), 1.0)
    powers = (1 << torch.arange(9, device=levels.device)).to(torch.float32)
    return powers.take(torch.bucketize(seen.sum(), powers))
