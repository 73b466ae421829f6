"""Padding for third-party networks that accept only some image sizes."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from sr.nets.io.experts import route_each_image


def any_size(net: Any, *, scale: int, multiple: int, minimum: int = 1) -> nn.Module:
    """Make a network pad its input to sides that are multiples of `multiple`, and crop its output.

    Returns the same network. Its class is extended in place, because a wrapper would rename every parameter. It gets a
    copy of its input, because some networks (spandrel's RCAN) write to it.
    """
    net.multiple = multiple
    route_each_image(net)
    net.register_forward_pre_hook(_copy_input)
    if multiple > 1 or minimum > 1:
        kind = type(net)
        net.__class__ = type(kind.__name__, (_AnySize, kind), {"_sizes": (scale, multiple, minimum)})
    return net


def _copy_input(net: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return inputs[0].clone(), *inputs[1:]


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
