"""3 x 3 convolutions in float32 on a CPU with a quarter of the multiplications (Winograd's F(4x4, 3x3)).

Implemented in winograd.c, which is compiled when the package is installed. Without a compiler, and for convolutions
that do not fit (see `fits`), torch's convolution is used: slower, and equal up to rounding. Relative errors are about
2e-6, against 3e-7 of torch. Without gradients, F(6x6, 3x3) needs a fifth of the multiplications, with errors of 5e-6.
"""

import ctypes
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VERSION = 2  # of winograd.c: a library of another version is not used
LAYOUT = torch.channels_last
Side = Literal[4, 6]  # of a tile of the output, in pixels
MOST = 2048  # channels; the same as in winograd.c
FEWEST_6, GAIN_6 = 64, 0.95  # tiles of 6 x 6 pixels; their products relative to those of 4 x 4
FEWEST = {1: 32, 2: 128}  # stride: tiles of 4 x 4 pixels; with fewer, transforming the kernel costs more


class _Image(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("batch", "height", "width")]


class _Input(ctypes.Structure):
    _fields_ = [("pixels", ctypes.c_void_p), ("pixel", ctypes.c_long), ("channels", ctypes.c_int)]


class _Output(ctypes.Structure):
    _fields_ = [
        *_Input._fields_,
        ("bias", ctypes.c_void_p),
        ("factor", ctypes.c_float),
        ("slope", ctypes.c_float),
        ("add", ctypes.c_void_p),
        ("add_pixel", ctypes.c_long),
        ("width", ctypes.c_int),
    ]


class _Kernel(ctypes.Structure):
    _fields_ = [("taps", ctypes.c_void_p), *((name, ctypes.c_long) for name in ("out", "in", "row", "col"))]


def _compiled() -> Iterator[Path]:
    """Possible paths of the library: next to this file, or in an installed package that a checkout in the working
    directory shadows (as with `accelerate launch -m sr`)."""
    package = Path(*__name__.split(".")[:-1])
    for folder in (Path(__file__).parent, *(Path(entry) / package for entry in sys.path)):
        yield from (folder / f"_winograd{suffix}" for suffix in EXTENSION_SUFFIXES)


def _load() -> Any:
    for path in _compiled():
        with suppress(OSError, AttributeError):
            library = ctypes.CDLL(str(path.absolute()))
            if library.winograd_version() != VERSION:
                continue
            library.winograd_conv.argtypes = [_Image, ctypes.c_int, _Input, _Kernel, _Output, ctypes.c_int]
            library.winograd_kernel_gradient.argtypes = [_Image, _Input, _Input, _Kernel, ctypes.c_int]
            return library
    return None


_library = _load()


def available() -> bool:
    return _library is not None


AnyModule = TypeVar("AnyModule", bound=nn.Module)
_PLAIN = (Tensor, nn.Parameter)  # other types (fake, distributed) have no accessible memory


def fits(x: Tensor, weight: Tensor) -> bool:
    """Whether a 3 x 3 convolution of x with weight is supported: stride 1, padding 1."""
    return weight.shape[2:] == (3, 3) and _takes(x, weight, stride=1)


def folds(x: Tensor, weight: Tensor) -> bool:
    """Whether a 4 x 4 convolution of x with weight is supported: stride 2, padding 1."""
    return weight.shape[2:] == (4, 4) and x.shape[-1] % 2 == x.shape[-2] % 2 == 0 and _takes(x, weight, stride=2)


def _takes(x: Tensor, weight: Tensor, *, stride: int) -> bool:
    if torch.compiler.is_compiling() or _library is None or x.device.type != "cpu" or x.dim() != 4:
        return False
    out, inside = weight.shape[0], weight.shape[1] * stride**2
    height, width = (side // stride for side in x.shape[2:])
    return (
        type(x) in _PLAIN
        and type(weight) in _PLAIN
        and x.dtype == weight.dtype == torch.float32
        and out % 16 == inside % 16 == 0
        and max(out, inside) <= MOST
        and min(height, width) >= 4
        and len(x) * -(-height // 4) * -(-width // 4) >= FEWEST[stride]
        and not torch.is_autocast_enabled("cpu")
        and not torch.jit.is_tracing()
    )


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, padding: int = 0) -> Tensor:
    """`torch.nn.functional.conv2d`, computed by winograd.c if it fits."""
    if stride == padding == 1 and fits(x, weight):
        made: Tensor = _Conv.apply(x, weight, bias, side(x, weight, bias))
    elif (stride, padding) == (2, 1) and folds(x, weight):
        x, weight = F.pixel_unshuffle(x, 2), _unshuffled(weight)
        made = _Conv.apply(x, weight, bias, side(x, weight, bias))
    else:
        made = F.conv2d(x, weight, bias, stride=stride, padding=padding)
    return made


def _unshuffled(weight: Tensor) -> Tensor:
    """[out, in, 4, 4] -> [out, 4 * in, 3, 3]: a convolution of stride 2 as one of stride 1 of the unshuffled image.

    Of the even rows it uses the current and the next one, of the odd rows the previous and the current one.
    """
    out, inside = weight.shape[:2]
    spread = weight.new_zeros(out, 36, inside)  # 6 x 6: three taps for even and three for odd pixels on each axis
    taps = torch.tensor([3, 1, 4, 2])
    spread[:, (6 * taps[:, None] + taps).flatten()] = weight.permute(0, 2, 3, 1).flatten(1, 2)
    parts = spread.view(out, 2, 3, 2, 3, inside).permute(0, 2, 4, 5, 1, 3)
    return parts.reshape(out, 3, 3, 4 * inside).permute(0, 3, 1, 2)


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` with 3 x 3 taps, stride 1 and padding 1, computed by winograd.c if it fits."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return conv2d(input, weight, bias, stride=1, padding=1)


def use_fast_conv(net: AnyModule, device: torch.device) -> AnyModule:
    """Replace the supported convolutions of `net` by fast ones, if the device is a CPU. Returns `net`.

    Warns if winograd.c is not compiled.
    """
    if device.type != "cpu":
        return net
    if _library is None:
        warnings.warn(
            "sr was installed without a C compiler, or updated since, so convolutions on a CPU take two to three times "
            "as long; install one (gcc), then reinstall sr",
            stacklevel=2,
        )
    for module in net.modules():
        if type(module) is nn.Conv2d and _is_ours(module):
            module.__class__ = Conv2d
        elif getattr(module, "convolve", None) is F.conv2d:  # a layer that computes its kernel
            module.convolve = conv2d  # type: ignore[assignment]
    return net


def _is_ours(conv: nn.Conv2d) -> bool:
    sizes = conv.kernel_size, conv.stride, conv.padding, conv.dilation
    return sizes == ((3, 3), (1, 1), (1, 1), (1, 1)) and conv.groups == 1 and conv.padding_mode == "zeros"


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, side: Side) -> Tensor:
        ctx.save_for_backward(x, weight)
        return conv(x, weight, bias, side=side)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias, _ = needed = ctx.needs_input_grad
        if torch.is_grad_enabled():  # torch supports second-order gradients
            ones, zeros = [1, 1], [0, 0]
            found = torch.ops.aten.convolution_backward(
                gradient, x, weight, [len(weight)], ones, ones, ones, False, zeros, 1, needed[:3]
            )
            return *(g if wanted else None for g, wanted in zip(found, needed[:3], strict=True)), None
        gradient = channels_last(gradient)
        return (
            conv(gradient, weight, transposed=True) if to_x else None,
            kernel_gradient(x, gradient, weight) if to_weight else None,
            gradient.sum((0, 2, 3)) if to_bias else None,
            None,
        )


# ---- without gradients -----------------------------------------------------------------------------------------------


def side(x: Tensor, *others: Tensor | None) -> Side:
    """The side of the output tiles for a convolution of x: 4 if gradients of x or of `others` are needed.

    Otherwise 6 for large images: 36 pixels need 64 products instead of 81, but more is wasted at the borders, and the
    kernel transform costs more. The batch size has no effect.
    """
    if torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in (x, *others)):
        return 4
    height, width = x.shape[2:]
    four, six = (-(-height // each) * -(-width // each) for each in (4, 6))
    return 6 if six >= FEWEST_6 and 64 * six < GAIN_6 * 36 * four else 4


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    transposed: bool = False,
    factor: float = 1.0,
    slope: float = 1.0,
    add: Tensor | None = None,
    into: Tensor | None = None,
    side: Side = 4,
) -> Tensor:
    """leaky_relu(factor * (x convolved with weight + bias), slope) + add, for tensors that `fits` accepts.

    transposed: use the kernel that computes the gradient of x. into: the output, which may be some channels of a
    channels_last tensor, and the same as `add`; None: a new tensor. side: of the output tiles.
    """
    x, kernel, out = channels_last(x), _kernel(weight), weight.shape[0]
    if transposed:
        row, col = kernel.row, kernel.col
        kernel = _Kernel(kernel.taps + 8 * (row + col), getattr(kernel, "in"), kernel.out, -row, -col)
        out = weight.shape[1]
    batch, _, height, width = x.shape
    if into is None:
        into = torch.empty((batch, out, height, width), memory_format=LAYOUT)
    if add is not None:
        add = channels_last(add)
    bias = None if bias is None else bias.contiguous()
    output = _Output(
        into.data_ptr(),
        into.stride(3),
        out,
        None if bias is None else bias.data_ptr(),
        factor,
        slope,
        None if add is None else add.data_ptr(),
        0 if add is None else add.stride(3),
        width,
    )
    image, threads = _Image(batch, height, width), torch.get_num_threads()
    _check(_library.winograd_conv(image, side, _input(x), kernel, output, threads))
    return into


def kernel_gradient(x: Tensor, gradient: Tensor, weight: Tensor) -> Tensor:
    """The gradient of weight, from the gradient of the output of the convolution."""
    x, gradient, made = channels_last(x), channels_last(gradient), torch.empty_like(weight)
    image = _Image(len(x), *x.shape[2:])
    _check(
        _library.winograd_kernel_gradient(image, _input(x), _input(gradient), _kernel(made), torch.get_num_threads())
    )
    return made


def channels_last(x: Tensor) -> Tensor:
    """x in channels_last, as winograd.c reads it; x may be some of the channels of a tensor. Copies other layouts."""
    batch, _, height, width = x.shape
    pixel = x.stride(3)
    strides = height * width * pixel if batch > 1 else x.stride(0), 1, width * pixel, pixel
    return x if x.stride() == strides else x.contiguous(memory_format=LAYOUT)


def _input(x: Tensor) -> _Input:
    return _Input(x.data_ptr(), x.stride(3), x.shape[1])


def _kernel(weight: Tensor) -> _Kernel:
    return _Kernel(weight.data_ptr(), *weight.stride())


def _check(failed: int) -> None:
    if failed:
        raise MemoryError("not enough memory for a convolution")
