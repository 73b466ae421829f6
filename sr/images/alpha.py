"""Colors of transparent pixels."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate


@torch.no_grad()
def bleed_colors(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Fill fully transparent pixels with the colors of the nearest visible pixels.

    Most programs save transparent pixels as black, and a network or filter mixes this black into visible edges.

    Args:
        rgb: float [3, h, w].
        alpha: float [1, h, w], where 0 is transparent.

    Returns:
        [3, h, w]; unchanged where alpha is above 0, and everywhere if all or no pixels are visible.
    """
    visible = alpha > 0
    if bool(visible.all()) or not bool(visible.any()):
        return rgb
    weight = visible.to(rgb.dtype)
    return torch.where(visible, rgb, _filled((rgb * weight)[None], weight[None])[0])


def _filled(sums: Tensor, weight: Tensor) -> Tensor:
    """Divide weighted colors [1, 3, h, w] by their weights [1, 1, h, w]; fill holes from half the resolution.

    This is the pull-push algorithm (Gortler et al., The Lumigraph, SIGGRAPH 1996).
    """
    colors = sums / weight.clamp_min(1e-6)
    if bool((weight > 0).all()):
        return colors
    halves = [avg_pool2d(x, 2, ceil_mode=True) for x in (sums, weight)]
    coarse = interpolate(_filled(*halves), scale_factor=2, mode="bilinear", align_corners=False)
    return torch.where(weight > 0, colors, coarse[..., : sums.shape[-2], : sums.shape[-1]])
