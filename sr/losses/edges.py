"""Losses on the Sobel gradient, in change per pixel (the kernels are divided by 8)."""

from torch import Tensor, nn

from sr.images.filters import length, slide

_ACROSS, _ALONG = (-0.5, 0.0, 0.5), (0.25, 0.5, 0.25)


class Gradient(nn.Module):
    """mean |S_x (output - target)| + mean |S_y (output - target)|, S the Sobel operators: where edges are."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        horizontal, vertical = _sobel(output.float() - target.float())
        return horizontal.abs().mean() + vertical.abs().mean()


class Edge(nn.Module):
    """mean | |S output| - |S target| |, |S| the length of the Sobel gradient: strength of edges.

    Ma et al. 2020 (SPSR) compare gradient maps in this way, with plain differences.
    """

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return (length(*_sobel(output.float())) - length(*_sobel(target.float()))).abs().mean()


def _sobel(x: Tensor) -> tuple[Tensor, Tensor]:
    """[..., h, w] -> slopes along width and along height, [..., h - 2, w - 2]."""
    return slide(slide(x, _ALONG, -2), _ACROSS, -1), slide(slide(x, _ACROSS, -2), _ALONG, -1)
