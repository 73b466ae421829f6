"""How far colours are off."""

from torch import Tensor

from sr.evaluate.metrics.protocol import counted_rgb
from sr.images.color import rgb_to_lab


def chroma(output: Tensor, target: Tensor, *, border: int) -> Tensor:
    """mean |difference| of CIE L*a*b*'s a and b (their units, about -110 to 110); lightness has no part in it.

    output, target: sRGB [3, h, w] in 0..1. border: pixels left out on every side.
    """
    made, wanted = (rgb_to_lab(counted_rgb(x, border=border))[1:] for x in (output, target))
    return (made - wanted).abs().mean()
