"""How the papers count: 8-bit values, the luma of BT.601, a border left out."""

import torch
from torch import Tensor

from sr.core.errors import UserError

_LUMA = (65.481, 128.553, 24.966)  # ITU-R BT.601 studio swing: R, G, B in 0..1 give Y - 16 in 0..219


def counted(image: Tensor, *, border: int, y: bool) -> Tensor:
    """The values that a metric compares.

    image: [c, h, w] in 0..1, RGB for `y`; it is clipped and rounded to 8 bit first, as if it had been saved and read
    again. Returns float64 in 0..255, `border` pixels cut from every side: [1, ...] in 16..235 for `y`, else [c, ...].
    """
    eight_bit = (image.detach().float().clamp(0, 1) * 255).round().double()
    height, width = eight_bit.shape[-2:]
    eight_bit = eight_bit[:, border : height - border, border : width - border]
    if not y:
        return eight_bit
    _check_rgb(image)
    luma = torch.tensor(_LUMA, dtype=torch.float64, device=image.device).view(3, 1, 1)
    return (eight_bit / 255 * luma).sum(0, keepdim=True) + 16


def counted_rgb(image: Tensor, *, border: int) -> Tensor:
    """The same in 0..1, of RGB alone. Raises UserError for other images."""
    _check_rgb(image)
    return counted(image, border=border, y=False) / 255


def _check_rgb(image: Tensor) -> None:
    if image.shape[0] != 3:
        raise UserError(f"this metric is for RGB, not for {image.shape[0]} channels; measure l1, psnr_rgb and ssim_rgb")
