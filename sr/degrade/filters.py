"""Filtering one image with one kernel."""

import torch
from torch import Tensor
from torch.nn import functional


def filter2d(image: Tensor, kernel: Tensor) -> Tensor:
    """Correlate every channel of `image` [c, h, w] with `kernel` [k, k], k odd; borders are mirrored.

    By FFT: for 21 taps and more several times faster than a direct convolution, and TF32 settings cannot reach it.
    """
    reach = kernel.shape[-1] // 2
    height, width = image.shape[-2:]
    mode = "reflect" if min(height, width) > reach else "replicate"  # too small to be mirrored that far
    padded = functional.pad(image, [reach] * 4, mode=mode)
    size = [_fast_length(height + 2 * reach), _fast_length(width + 2 * reach)]
    spectrum = torch.fft.rfft2(padded, s=size) * torch.fft.rfft2(kernel, s=size).conj()
    return torch.fft.irfft2(spectrum, s=size)[..., :height, :width]


def _fast_length(length: int) -> int:
    """The next length that is a product of 2, 3 and 5; also few enough distinct ones that FFT plans are reused."""
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 1
