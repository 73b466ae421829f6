"""Networks of others that take only some sizes, made to take any."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


def any_size(net: Any, *, scale: int, multiple: int, minimum: int = 1) -> nn.Module:
    """The same network, which from now on pads its input to sides that are a multiple, and crops its output.

    Its class is extended in place: a wrapper around it would rename every parameter.
    """
    net.multiple = multiple
    if multiple > 1 or minimum > 1:
        kind = type(net)
        net.__class__ = type(kind.__name__, (_AnySize, kind), {"_sizes": (scale, multiple, minimum)})
    return net


class _AnySize:
    _sizes: tuple[int, int, int]

    def forward(self, x: Tensor) -> Tensor:
        inner: Any = super()
        scale, multiple, minimum = self._sizes
        height, width = x.shape[-2:]
        bottom, right = (-(-max(side, minimum) // multiple) * multiple - side for side in (height, width))
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom), mode="reflect" if right < width and bottom < height else "replicate")
        out: Tensor = inner.forward(x)
        return out[..., : height * scale, : width * scale]
