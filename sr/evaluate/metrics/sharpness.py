"""How much fine detail an image has."""

import torch.nn.functional as F
from torch import Tensor

from sr.evaluate.metrics.protocol import counted


def sharpness(output: Tensor, target: Tensor, *, border: int) -> Tensor:
    """`detail` of the output over that of the target: below 1 is blurred, above 1 oversharp or noisy.

    output, target: [c, h, w] in 0..1, at least 3 + 2 * border pixels a side. border: pixels left out on every side.
    """
    made, wanted = (detail(counted(x, border=border, y=False)[None] / 255) for x in (output, target))
    return made / wanted.clamp(min=1e-8)


def detail(images: Tensor) -> Tensor:
    """High-frequency energy: the mean square of what a 3 x 3 box filter takes away. [B, c, h, w] -> []."""
    inner = images[..., 1:-1, 1:-1]
    return (inner - F.avg_pool2d(images, 3, stride=1)).square().mean()
