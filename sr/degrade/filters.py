"""Filter images, each with a different kernel."""

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from sr.degrade.canvas import Packed, is_accelerator, pack
from sr.degrade.draws import upload


def filter2d(images: list[Tensor], kernels: Tensor) -> list[Tensor]:
    """Correlate every channel of images[i] [c, h, w] with kernels[i] [k, k], k odd, with reflected borders.

    kernels: float [n, k, k] or, for all images, [1, k, k]; on the host. Uses the FFT: for 21 taps and more it is
    several times faster than a direct convolution, and independent of the TF32 settings.
    """
    if is_accelerator(images[0].device):
        return _together(pack(images), kernels)
    return [_alone(image, kernel) for image, kernel in zip(images, kernels.expand(len(images), -1, -1), strict=True)]


def _alone(image: Tensor, kernel: Tensor) -> Tensor:
    reach = kernel.shape[-1] // 2
    mode = "reflect" if min(image.shape[-2:]) > reach else "replicate"  # reflection needs a larger image
    mirrored = functional.pad(image[None], [reach] * 4, mode=mode)
    height, width = mirrored.shape[-2:]
    size = _fast_length(height), _fast_length(width)
    # Transform the rows of the kernel first, while they are few.
    spectrum = torch.fft.fft(torch.fft.rfft(kernel[None], n=size[1]), n=size[0], dim=-2).conj()
    product = torch.fft.rfft2(mirrored, s=size if size != (height, width) else None).mul_(spectrum[:, None])
    return torch.fft.irfft2(product, s=size)[0, :, : image.shape[-2], : image.shape[-1]]


def _together(images: Packed, kernels: Tensor) -> Packed:
    reach = kernels.shape[-1] // 2
    height, width = images.whole.shape[-2:]
    size = _fast_length(height + 2 * reach), _fast_length(width + 2 * reach)
    small = torch.tensor([min(sides) <= reach for sides in images.sizes])
    rows, columns = (
        _mirrored(torch.tensor([sides[axis] for sides in images.sizes]), small, reach, length)
        for axis, length in enumerate(size)
    )
    spectra = (_spectrum if len(kernels) == 1 else _spectra)(kernels, size, images.whole.device)
    spectrum = torch.fft.rfft2(images.gather(rows, columns)).mul_(spectra[:, None])
    return images.like(torch.fft.irfft2(spectrum, s=size)[..., :height, :width])


def _mirrored(sides: Tensor, small: Tensor, reach: int, length: int) -> Tensor:
    """The index of each of `length` pixels, of which the first is `reach` before the image; [n, length].

    The border is reflected, or where the image is too small for that, repeated.
    """
    index, last = torch.arange(-reach, length - reach), sides[:, None] - 1
    reflected = torch.where(small[:, None], index, torch.minimum(index.abs(), 2 * last - index.abs()))
    return torch.minimum(reflected.clamp(min=0), last)


def _spectra(kernels: Tensor, size: tuple[int, int], device: torch.device) -> Tensor:
    """The conjugate of the kernels' spectra, complex64 [n, size[0], size[1] // 2 + 1]: two products with DFT matrices,
    which are fewer kernels than padded FFTs."""
    taps = kernels.shape[-1]
    down, across = _dft(size[0], taps, size[0], device), _dft(size[1], taps, size[1] // 2 + 1, device)
    lines = upload(kernels.to(torch.complex64), device).flatten(0, 1) @ across.T
    return torch.bmm(down.expand(len(kernels), -1, -1), lines.view(len(kernels), taps, -1))


@lru_cache(maxsize=8)
def _spectrum(kernel: Tensor, size: tuple[int, int], device: torch.device) -> Tensor:
    """`_spectra` of a kernel that is used at every step."""
    return _spectra(kernel, size, device)


@lru_cache(maxsize=64)
def _dft(length: int, taps: int, frequencies: int, device: torch.device) -> Tensor:
    """exp(2 pi i f t / length), complex64 [frequencies, taps]."""
    turns = torch.arange(frequencies)[:, None] * torch.arange(taps) % length
    waves = torch.polar(torch.ones(1, dtype=torch.float64), turns.double() * (2 * math.pi / length))
    return upload(waves.to(torch.complex64), device)


@lru_cache(maxsize=1024)
def _fast_length(length: int) -> int:
    """The next product of 2, 3, 5 and 7. There are few of them, so FFT plans are reused."""
    while True:
        rest = length
        for factor in (2, 3, 5, 7):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 1
