"""Layers and helpers shared by several generators."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

Count = Annotated[int, Field(gt=0, le=1024)]
Kept = list[tuple[Tensor, int]]
"""Tensors saved for the backward pass, each with its version counter at that time."""


def conv3(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


def small_conv3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """3x3 convolution with He et al.'s initialization times 0.1, so that a deep residual net starts near the identity.

    ESRGAN, section 3.1.
    """
    conv = conv3(in_channels, out_channels)
    nn.init.kaiming_normal_(conv.weight).data.mul_(0.1)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def upsampling_factors(factor: int) -> tuple[int, ...]:
    """Return the upsampling steps for a scale: (2, 2) for 4, (3,) for 3, none for 1."""
    return (3,) if factor == 3 else (2,) * (factor.bit_length() - 1)


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Disable autocast inside the block. Meta tensors have no autocast."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def conv_on(conv: nn.Conv2d, make: Callable[..., Tensor], *sources: Tensor) -> Tensor:
    """Return conv(make(*sources)); the backward pass recomputes the input from the sources instead of saving it.

    Use it where `make` only copies (concatenation, upscaling) and the sources are saved anyway. Gradients and double
    gradients are bit-identical. Under torch.compile the compiler decides what to recompute.
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
        # Save the parameter, not its storage: sharding frees the storage until the backward pass.
        return [(weight, weight._version)] if place == weight.data_ptr() else saved

    def unpack(saved: Tensor | Kept) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        if any(tensor._version != version for tensor, version in saved):
            raise RuntimeError("a convolution's input was changed between its forward and its backward pass")
        with torch.no_grad():
            return make(*(tensor for tensor, _ in saved)) if saved is kept else saved[0][0].detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return conv(made)
