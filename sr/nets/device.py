"""Prepare networks for a device: layout, convolutions, half precision."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from sr.nets import cpu

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def place(net: AnyModule, device: torch.device, *, channels_last: bool = True) -> AnyModule:
    """Move a network to a device, in the layout and with the convolutions that are fastest there. Returns `net`."""
    cpu.use_fast_conv(net, device).to(device)
    return net.to(memory_format=torch.channels_last) if channels_last else net


def fast_half_types(device: torch.device) -> list[torch.dtype]:
    """The half precisions in which this device computes convolutions faster than in float32, fastest first.

    Decided by capability. A time measurement of one layer is dominated by the latency of its launch, and a CPU without
    instructions for bfloat16 runs it too, several times slower.
    """
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        since = [(torch.float16, (7, 0)), (torch.bfloat16, (8, 0))]
        return [dtype for dtype, least in since if capability >= least]
    if device.type == "cpu":
        return [torch.bfloat16] if cpu.bfloat16_is_faster() else []
    return {"xpu": [torch.float16, torch.bfloat16], "mps": [torch.float16]}.get(device.type, [])


@contextmanager
def multiplications(device: torch.device, *, tf32: bool) -> Iterator[None]:
    """Allow or forbid TF32 in convolutions and products of float32 matrices on a CUDA device."""
    if device.type != "cuda":
        yield
        return
    conv, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    value: str | bool = tf32
    if hasattr(conv, "conv"):  # torch 2.9; reading `allow_tf32` raises once these were set
        switches, name, value = (conv.conv, matmul), "fp32_precision", "tf32" if tf32 else "ieee"
    else:
        switches, name = (conv, matmul), "allow_tf32"
    before = [getattr(switch, name) for switch in switches]
    for switch in switches:
        setattr(switch, name, value)
    try:
        yield
    finally:
        for switch, was in zip(switches, before, strict=True):
            setattr(switch, name, was)
