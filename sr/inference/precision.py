"""A generator in half precision, as far as its images stay the same: ways to run it, fastest first, and the check."""

import contextlib
import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.core.errors import first_line
from sr.nets import edsr, rcan, srresnet
from sr.nets.cpu.winograd import conv2d, use_fast_conv
from sr.nets.rrdbnet import ResidualDenseBlock

Precision = Literal["auto", "fp32", "tf32", "mixed", "bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
WITHIN = 0.5 / 255  # of fp32, on what is looked at, for a precision that nobody asked for: half of what is promised
BROKEN = 32 / 255  # one that was asked for is given up beyond this, or at numbers that are not finite
GAIN = 1.3  # how many times faster than fp32 a convolution has to be for half precision to be worth a try

# ---- ways to run a net -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """A net as it is run. run: [B, c, h, w] of any float type -> float32. name: for people."""

    name: str
    run: Callable[[Tensor], Tensor]


def exact(net: nn.Module, device: torch.device) -> Way:
    """fp32 throughout, without the shortened multiplications (TF32) that torch otherwise allows itself on CUDA."""
    if device.type == "cpu":
        use_fast_conv(net, device).to(memory_format=torch.channels_last)  # faster, and the same up to rounding
    return Way("fp32", lambda x: _called(net, x.float(), tf32=False, last=device.type == "cpu"))


def shortened(net: nn.Module, device: torch.device) -> Way:
    """What torch does with an fp32 net by itself: on CUDA with TF32 multiplications, 10 bits of mantissa like fp16."""
    cuda = device.type == "cuda"
    return Way("tf32" if cuda else "fp32", lambda x: _called(net, x.float(), tf32=True, last=cuda))


def halved(net: nn.Module, kind: str) -> Way:
    """All weights and all that is computed in `kind` (bf16, fp16): the fastest, and off by several 8-bit steps in bf16,
    whose numbers near 1 are 1/256 apart."""
    dtype = DTYPES[kind]
    half = copy.deepcopy(net).to(dtype).to(memory_format=torch.channels_last)
    return Way(kind, lambda x: _called(half, x.to(dtype), tf32=True, last=True))


def mixed(net: nn.Module, kind: str) -> Way | None:
    """`kind` inside the residual blocks, whose outputs are small corrections, and fp32 for the sum that they add to and
    for all before and after them. None where the net has no such blocks.

    Of an RRDBNet 64/23 that is 92 % of the operations.
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
    """A module in half precision; its output, still half, becomes fp32 where it is added to fp32."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.dtype = module.to(dtype), dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x.to(self.dtype))


class _DenseBlock(nn.Module):
    """`ResidualDenseBlock` on fp32 features with its convolutions in half precision."""

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
    with _multiplications(x.device, tf32=tf32):
        made: Tensor = net(x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format))
    return made.float()


@contextlib.contextmanager
def _multiplications(device: torch.device, *, tf32: bool) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    backends: Any = torch.backends
    before = backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32
    backends.cudnn.allow_tf32 = backends.cuda.matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32 = before


# ---- which one -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """way: what to run. deviation: from fp32 on what was looked at. refused: one phrase per way that was given up."""

    way: Way
    deviation: float
    refused: list[str]


def choose(net: nn.Module, precision: Precision, *, device: torch.device, looks: list[Tensor]) -> Choice:
    """The fastest way that gives fp32's images of `looks` ([B, c, h, w] each) within WITHIN; a precision that was
    asked for unless it breaks them. The net in fp32 is the last resort.
    """
    if precision == "tf32":
        return Choice(shortened(net, device), 0.0, [])
    plain, refused = exact(net, device), []
    makers = _makers(net, precision, device)
    wanted = [plain.run(look.to(device)) for look in looks] if makers else []
    for make in makers:
        way = make()
        if way is None:
            refused += ["it has no blocks that sr knows to mix"] if precision == "mixed" else []
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
    if device.type == "cpu":
        return [lambda: mixed(net, "bf16")] if pays(device, torch.bfloat16) else []
    makers: list[Callable[[], Way | None]] = []
    if pays(device, torch.float16):
        makers += [lambda: halved(net, "fp16"), lambda: mixed(net, "fp16")]
    if pays(device, torch.bfloat16):
        makers.append(lambda: mixed(net, "bf16"))
    return [*makers, lambda: shortened(net, device)] if device.type == "cuda" else makers


def pays(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this machine convolves faster in dtype than in fp32: by GAIN at least, tried on one layer (some ms).

    What a processor can do says little: one without instructions for bf16 runs it too, several times slower.
    """
    took = {}
    for kind in (torch.float32, dtype):
        x, weight = torch.ones(1, 128, 64, 64, device=device, dtype=kind), torch.ones(64, 128, 3, 3, device=device)
        x, weight = (t.to(kind, memory_format=torch.channels_last) for t in (x, weight))
        times = []
        for _ in range(4):
            start = time.perf_counter()
            try:
                conv2d(x, weight, stride=1, padding=1).sum().item()  # .item() waits for the device
            except (RuntimeError, NotImplementedError):
                return False
            times.append(time.perf_counter() - start)
        took[kind] = min(times)
    return took[torch.float32] >= GAIN * took[dtype]


def _deviation(way: Way, looks: list[Tensor], wanted: list[Tensor], device: torch.device) -> float:
    """The largest difference of images, infinity where one is not finite."""
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
    return f"is off by up to {deviation * 255:.1f}/255"


def out_of_memory(error: BaseException) -> bool:
    """Of the device, or of the host where that is the device."""
    said = str(error).lower()
    told = "can't allocate memory", "not enough memory", "out of memory"
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(phrase in said for phrase in told)
    )
