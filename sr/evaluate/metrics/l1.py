"""Mean absolute difference."""

from torch import Tensor

from sr.evaluate.metrics.protocol import counted


def l1(output: Tensor, target: Tensor, *, border: int) -> Tensor:
    """mean |output - target| in 0..1, over pixels and channels.

    output, target: [c, h, w] in 0..1. border: pixels left out on every side.
    """
    difference = counted(output, border=border, y=False) - counted(target, border=border, y=False)
    return difference.abs().mean() / 255
