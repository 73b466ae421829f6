"""Fast float32 convolutions and dense blocks on a CPU. `use_fast_conv` gives a network to them."""

import torch

from sr.nets.cpu import dense, winograd
from sr.nets.cpu.winograd import use_fast_conv

__all__ = ["bfloat16_is_faster", "dense", "use_fast_conv"]


def bfloat16_is_faster() -> bool:
    """Whether this CPU computes convolutions faster in bfloat16 than these do in float32.

    They save three quarters of the multiplications, so that only AMX is faster.
    """
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(amx() or (bf16() and not winograd.available()))
