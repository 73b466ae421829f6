"""Structural similarity: Wang, Bovik, Sheikh and Simoncelli, IEEE TIP 2004."""

import torch
from torch import Tensor

from sr.evaluate.metrics.protocol import counted
from sr.images.ssim import ssim_maps


@torch.no_grad()
def ssim(output: Tensor, target: Tensor, *, border: int, y: bool = True) -> Tensor:
    """Return the mean of the SSIM map, 1 for equal images, over the windows that lie within the image.

    No downsampling, as in the authors' first MATLAB code.

    Args:
        output, target: [c, h, w] in 0..1, at least sr.images.ssim.WINDOW + 2 * border pixels a side; RGB for `y`.
        border: pixels cropped from every side.
        y: measure luma, as super-resolution papers do; otherwise the mean over the channels.
    """
    luminance, structure = ssim_maps(*(counted(x, border=border, y=y) for x in (output, target)), peak=255)
    return (luminance * structure).mean()
