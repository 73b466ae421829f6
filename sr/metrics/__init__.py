"""Image metrics: `metric(output, target, border=...) -> float` on [3, h, w] images in 0..1. A new one is a row here."""

from collections.abc import Callable
from functools import partial

from sr.metrics.psnr import psnr
from sr.metrics.ssim import ssim

METRICS: dict[str, Callable[..., float]] = {
    "psnr_y": psnr,
    "ssim_y": ssim,
    "psnr_rgb": partial(psnr, y=False),
    "ssim_rgb": partial(ssim, y=False),
}
