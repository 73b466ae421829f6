"""Networks of spandrel that choose their experts by the first image of a batch."""

from typing import Any

import torch
from torch import Tensor, nn


def route_each_image(net: nn.Module) -> nn.Module:
    """Make SeemoRe choose the experts of each image of a batch, as in training. Returns the same network.

    In evaluation mode its layer of experts takes one image only, and fails for a batch, such as several tiles.
    """
    for module in net.modules():
        kind = type(module)
        if kind.__name__ == "MoELayer" and kind.__module__.startswith("spandrel.architectures.SeemoRe"):
            module.__class__ = type(kind.__name__, (_EachImage, kind), {})
    return net


def chooses_layers(net: nn.Module) -> bool:
    """Whether the layers that run depend on the image, so that a static graph cannot hold the network."""
    return any(isinstance(module, _EachImage) for module in net.modules())


class _EachImage:
    training: bool

    def forward(self, inputs: Tensor, k: Tensor) -> Tensor:
        inner: Any = super()
        if self.training or len(inputs) == 1:
            return inner.forward(inputs, k)
        pairs = zip(inputs.split(1), k.split(1), strict=True)
        return torch.cat([inner.forward(image, kernel) for image, kernel in pairs])
