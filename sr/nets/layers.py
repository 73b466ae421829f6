"""What several generators are made of."""

from typing import Annotated

from pydantic import Field
from torch import nn

Count = Annotated[int, Field(gt=0, le=1024)]


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
