"""How the papers count: 8-bit values, the luma of BT.601, a border left out."""

import torch
from torch import Tensor

_LUMA = (65.481, 128.553, 24.966)  # ITU-R BT.601 studio swing: R, G, B in 0..1 give Y - 16 in 0..219


def counted(image: Tensor, *, border: int, y: bool) -> Tensor:
    """The values that a metric compares.

    image: [3, h, w] in 0..1; it is clipped and rounded to 8 bit first, as if it had been saved and read again.
    Returns float64 in 0..255, `border` pixels cut from every side: [1, ...] in 16..235 for `y`, else [3, ...].
    """
    eight_bit = (image.detach().float().clamp(0, 1) * 255).round().double()
    height, width = eight_bit.shape[-2:]
    eight_bit = eight_bit[:, border : height - border, border : width - border]
    if not y:
        return eight_bit
    luma = torch.tensor(_LUMA, dtype=torch.float64, device=image.device).view(3, 1, 1)
    return (eight_bit / 255 * luma).sum(0, keepdim=True) + 16
