"""Run a generator in the fastest precision that keeps its output close to float32."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.core.errors import first_line
from sr.nets import edsr, rcan, srresnet
from sr.nets.device import fast_half_types, multiplications, place
from sr.nets.rrdbnet import ResidualDenseBlock

Precision = Literal["auto", "fp32", "tf32", "mixed", "bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
WITHIN = 0.5 / 255  # largest deviation from fp32 on the test images for `auto`: half of what the documentation promises
BROKEN = 32 / 255  # largest deviation of a precision that the user chose; beyond it, fp32 is used

# ---- ways to run a network -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """How a network is run.

    name: for messages. run: [B, c, h, w] of any float type -> float32. element: bytes of most activations.
    """

    name: str
    run: Callable[[Tensor], Tensor]
    element: int = 4


def exact(net: nn.Module, device: torch.device) -> Way:
    """float32 without TF32, which torch otherwise uses for convolutions on CUDA."""
    if device.type == "cpu":
        place(net, device)  # faster, and equal up to rounding
    return Way("fp32", lambda x: _called(net, x.float(), tf32=False, last=device.type == "cpu"))


def shortened(net: nn.Module, device: torch.device) -> Way:
    """float32 with TF32 multiplications on CUDA, which have 10 bits of mantissa like fp16."""
    cuda = device.type == "cuda"
    return Way("tf32" if cuda else "fp32", lambda x: _called(net, x.float(), tf32=True, last=cuda))


def halved(net: nn.Module, kind: str) -> Way:
    """All weights and activations in `kind` (bf16, fp16). bf16 deviates by several 8-bit steps, because its values
    near 1 are 1/256 apart."""
    dtype = DTYPES[kind]
    half = copy.deepcopy(net).to(dtype).to(memory_format=torch.channels_last)
    return Way(kind, lambda x: _called(half, x.to(dtype), tf32=True, last=True), element=2)


def mixed(net: nn.Module, kind: str) -> Way | None:
    """`kind` inside the residual blocks, and fp32 for the sum that they add to and for all other layers.

    Returns None if the network has no such blocks. In an RRDBNet 64/23 they are 92 % of the operations.
    """
    dtype = DTYPES[kind]
    net = copy.deepcopy(net).to(memory_format=torch.channels_last)
    found = 0
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, ResidualDenseBlock):
                setattr(module, name, _DenseBlock(child, dtype))
            elif isinstance(child, (edsr.ResidualBlock, srresnet.ResidualBlock)):
                child.conv1, child.conv2 = _Within(child.conv1, dtype), _Within(child.conv2, dtype)  # type: ignore[assignment]
            elif isinstance(child, rcan.AttentionBlock):
                child.rcab = _Within(child.rcab, dtype)  # type: ignore[assignment]
            else:
                continue
            found += 1
    return Way(f"{kind} blocks in fp32", lambda x: _called(net, x.float(), tf32=False, last=True)) if found else None


class _Within(nn.Module):
    """A module in half precision. Its output becomes float32 when it is added to float32."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.dtype = module.to(dtype), dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x.to(self.dtype))


class _DenseBlock(nn.Module):
    """`ResidualDenseBlock` on float32 features with its convolutions in half precision."""

    def __init__(self, block: ResidualDenseBlock, dtype: torch.dtype) -> None:
        super().__init__()
        self.convs = nn.ModuleList([block.conv1, block.conv2, block.conv3, block.conv4, block.conv5]).to(dtype)
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        dense = x.to(self.dtype)
        for conv in self.convs[:-1]:
            dense = torch.cat((dense, F.leaky_relu(conv(dense), 0.2, inplace=True)), 1)
        return torch.add(x, self.convs[-1](dense), alpha=0.2)


def _called(net: nn.Module, x: Tensor, *, tf32: bool, last: bool) -> Tensor:
    with multiplications(x.device, tf32=tf32):
        made: Tensor = net(x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format))
    return made.float()


# ---- choose a precision ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """way: what to run. deviation: the largest from fp32 on the test images. refused: why others were not chosen."""

    way: Way
    deviation: float
    refused: list[str]


def choose(net: nn.Module, precision: Precision, *, device: torch.device, looks: list[Tensor]) -> Choice:
    """Choose the fastest way whose output for the test images `looks` ([B, c, h, w] each) is within WITHIN of fp32.

    A precision that the user chose is kept unless it deviates by more than BROKEN, overflows or does not run; then
    fp32 is chosen.
    """
    if precision == "tf32":
        return Choice(shortened(net, device), 0.0, [])
    plain, refused = exact(net, device), []
    makers = _makers(net, precision, device)
    wanted = [plain.run(look.to(device)) for look in looks] if makers else []
    for make in makers:
        way = make()
        if way is None:
            refused += ["the network has no residual blocks to mix"] if precision == "mixed" else []
            continue
        bound = WITHIN if precision == "auto" else BROKEN
        try:
            deviation = _deviation(way, looks, wanted, device)
        except (RuntimeError, NotImplementedError) as error:  # an operation that does not exist in this precision
            if out_of_memory(error):
                raise
            refused.append(f"{way.name} does not run here ({first_line(error, 80)})")
            continue
        if deviation <= bound:
            return Choice(way, deviation, refused)
        refused.append(f"{way.name} {_wrong(deviation)}")
    return Choice(plain, 0.0, refused)


def _makers(net: nn.Module, precision: Precision, device: torch.device) -> list[Callable[[], Way | None]]:
    if precision in DTYPES:
        return [lambda: halved(net, precision)]
    if precision == "mixed":
        return [lambda: mixed(net, "bf16")]
    if precision == "fp32":
        return []
    types = fast_half_types(device)
    makers: list[Callable[[], Way | None]] = []
    if torch.float16 in types:
        makers += [lambda: halved(net, "fp16"), lambda: mixed(net, "fp16")]
    if torch.bfloat16 in types:
        makers.append(lambda: mixed(net, "bf16"))
    return [*makers, lambda: shortened(net, device)] if device.type == "cuda" else makers


def _deviation(way: Way, looks: list[Tensor], wanted: list[Tensor], device: torch.device) -> float:
    """The largest difference of outputs clipped to 0..1; infinity if one is not finite."""
    worst = 0.0
    for look, right in zip(looks, wanted, strict=True):
        made = way.run(look.to(device))
        if not torch.isfinite(made).all():
            return torch.inf
        worst = max(worst, (made.clamp(0, 1) - right.clamp(0, 1)).abs().max().item())
    return worst


def _wrong(deviation: float) -> str:
    if deviation == torch.inf:
        return "overflows"
    return f"differs from fp32 by up to {deviation * 255:.1f}/255"


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the memory of the device, or of the host, is exhausted."""
    message = str(error).lower()
    phrases = "can't allocate memory", "not enough memory", "out of memory"
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(phrase in message for phrase in phrases)
    )
