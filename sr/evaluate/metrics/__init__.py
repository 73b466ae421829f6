"""Image metrics, one row each: `METRICS[name].measure(output, target, border=...) -> float` on [3, h, w] in 0..1."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor

from sr.evaluate.metrics.chroma import chroma
from sr.evaluate.metrics.l1 import l1
from sr.evaluate.metrics.niqe import niqe
from sr.evaluate.metrics.perceptual import dists, lpips, missing_weights
from sr.evaluate.metrics.psnr import psnr
from sr.evaluate.metrics.sharpness import sharpness
from sr.evaluate.metrics.ssim import ssim


class Metric(NamedTuple):
    """compute: the value as a tensor on the images' device; nan for an image that is too small. perfect: its value for
    equal images (niqe, which has no target: of natural ones), so also which way is better. missing: why it cannot be
    measured here, or None."""

    compute: Callable[..., Tensor]
    perfect: float
    missing: Callable[[], str | None] = lambda: None

    def measure(self, output: Tensor, target: Tensor, *, border: int) -> float:
        """Return the value for images [c, h, w] in 0..1."""
        return float(self.compute(output, target, border=border))


METRICS: dict[str, Metric] = {
    "psnr_y": Metric(psnr, math.inf),
    "ssim_y": Metric(ssim, 1),
    "psnr_rgb": Metric(partial(psnr, y=False), math.inf),
    "ssim_rgb": Metric(partial(ssim, y=False), 1),
    "l1": Metric(l1, 0),
    "sharpness": Metric(sharpness, 1),
    "chroma": Metric(chroma, 0),
    "lpips": Metric(lpips, 0, partial(missing_weights, "lpips")),
    "dists": Metric(dists, 0, partial(missing_weights, "dists")),
    "niqe": Metric(niqe, 0),
}
SUPER_RESOLUTION = "psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb", "lpips", "dists", "niqe"
TRANSLATION = "l1", "psnr_rgb", "ssim_rgb", "sharpness", "chroma", "lpips"


def better(metric: str, value: float, than: float) -> bool:
    """Whether `value` is nearer to perfect; a value that is not a number never is."""
    perfect = METRICS[metric].perfect
    return value > than if perfect == math.inf else abs(value - perfect) < abs(than - perfect)
