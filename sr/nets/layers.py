"""What several generators are made of."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

Count = Annotated[int, Field(gt=0, le=1024)]
Kept = list[tuple[Tensor, int]]
"""Tensors that wait for the backward pass, each with its version then."""


def conv3(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


def small_conv3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Weights a tenth of He et al.'s: a deep stack of residuals starts near the identity (ESRGAN, section 3.1)."""
    conv = conv3(in_channels, out_channels)
    nn.init.kaiming_normal_(conv.weight).data.mul_(0.1)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def enlargements(factor: int) -> tuple[int, ...]:
    """The steps that lead to `factor`: (2, 2) for 4, (3,) for 3, none for 1."""
    return (3,) if factor == 3 else (2,) * (factor.bit_length() - 1)


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Compute in the dtype of the arguments. Meta tensors, which only have shapes, have no autocast."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def conv_on(conv: nn.Conv2d, make: Callable[..., Tensor], *sources: Tensor) -> Tensor:
    """conv(make(*sources)), of which the backward pass keeps the sources and makes the input again.

    Worth it where `make` only copies (concatenation, upscaling) and the sources are kept anyway. Gradients are the
    same to the last bit, also those of gradients. torch.compile decides by itself what to make again.
    """
    made = make(*sources)
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return conv(made)
    address, shape = made.data_ptr(), made.shape
    kept = [(source, source._version) for source in sources]

    def pack(saved: Tensor) -> Tensor | Kept:
        place, weight = saved.data_ptr(), conv.weight
        if place == address and saved.shape == shape:
            return kept
        # The parameter, not its memory: sharding takes that away until the backward pass.
        return [(weight, weight._version)] if place == weight.data_ptr() else saved

    def unpack(saved: Tensor | Kept) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        if any(tensor._version != version for tensor, version in saved):
            raise RuntimeError("what a convolution works on was changed between its forward and its backward pass")
        with torch.no_grad():
            return make(*(tensor for tensor, _ in saved)) if saved is kept else saved[0][0].detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return conv(made)
