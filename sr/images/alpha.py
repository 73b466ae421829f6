"""Colours of transparent pixels."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate


@torch.no_grad()
def bleed_colors(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Give fully transparent pixels the colours of the visible pixels around them.

    Most programs save transparent pixels as black. A network or a filter that looks at them mixes that black into the
    edges of what is visible.

    Args:
        rgb: float [3, h, w].
        alpha: float [1, h, w], where 0 is transparent.

    Returns:
        [3, h, w]; unchanged where alpha is above 0, and everywhere if all pixels are visible or none is.
    """
    visible = alpha > 0
    if bool(visible.all()) or not bool(visible.any()):
        return rgb
    weight = visible.to(rgb.dtype)
    return torch.where(visible, rgb, _filled((rgb * weight)[None], weight[None])[0])


def _filled(sums: Tensor, weight: Tensor) -> Tensor:
    """Weighted colours [1, 3, h, w] and weights [1, 1, h, w] -> colours, where there is no weight from half the size
    (the pull-push algorithm of Gortler et al., The Lumigraph, SIGGRAPH 1996)."""
    colours = sums / weight.clamp_min(1e-6)
    if bool((weight > 0).all()):
        return colours
    halves = [avg_pool2d(x, 2, ceil_mode=True) for x in (sums, weight)]
    coarse = interpolate(_filled(*halves), scale_factor=2, mode="bilinear", align_corners=False)
    return torch.where(weight > 0, colours, coarse[..., : sums.shape[-2], : sums.shape[-1]])
