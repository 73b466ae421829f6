"""Losses on the discrete Fourier transform."""

import torch
from torch import Tensor, nn

from sr.losses.weight_schedules import NonNegative

_SILENT = 1e-3  # about the rounding noise of 8 bits in an orthonormal coefficient: 1 / (255 * sqrt(12))


class FFT(nn.Module):
    """amplitude * mean ||F(o)| - |F(t)|| + phase * mean |angle F(o) - angle F(t)| (Fuoli et al. 2021).

    F is the orthonormal transform of each channel under a Hann window, so that the border does not add an edge.
    amplitude, phase: the weights of the two terms. Phase differences are in 0..pi. The phase of a coefficient below
    8-bit rounding noise is ignored.
    """

    def __init__(self, *, amplitude: NonNegative = 0.5, phase: NonNegative = 0.5) -> None:
        super().__init__()
        self.amplitude, self.phase = amplitude, phase

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        o, t = _windowed_spectrum(output.float()), _windowed_spectrum(target.float())
        return self.amplitude * (o.abs() - t.abs()).abs().mean() + self.phase * _phase_distance(o, t).mean()


class FocalFrequency(nn.Module):
    """mean w |F(o) - F(t)|², w = |F(o) - F(t)|^alpha / its largest value in the channel (Jiang et al. 2021).

    F is the orthonormal transform of each channel; w has no gradient. Frequencies with the largest error weigh most.
    alpha: 0 weighs all frequencies equally, which is the l2 loss.
    """

    def __init__(self, *, alpha: NonNegative = 1.0) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        spectrum = torch.fft.fft2(output.float() - target.float(), norm="ortho")
        squared = spectrum.real.square() + spectrum.imag.square()
        with torch.no_grad():
            weight = squared ** (self.alpha / 2)
            weight = weight / weight.amax((-2, -1), keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
        return (weight * squared).mean()


def _windowed_spectrum(images: Tensor) -> Tensor:
    height, width = (torch.hann_window(n, device=images.device) for n in images.shape[-2:])
    return torch.fft.rfft2(images * height[:, None] * width, norm="ortho")


def _phase_distance(o: Tensor, t: Tensor) -> Tensor:
    """|angle o - angle t| in 0..pi; 0 where either is silent, because the gradient grows as 1 / amplitude."""
    turn = o * t.conj()
    silent = torch.minimum(o.detach().abs(), t.detach().abs()) < _SILENT
    return torch.atan2(turn.imag.masked_fill(silent, 0), turn.real.masked_fill(silent, 1)).abs()
