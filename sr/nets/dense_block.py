"""A residual dense block on a GPU as one operation, with half as many kernel launches as autograd needs.

The weights of its convolutions are cast to half precision by one kernel. In the backward pass, the gradients of all
features accumulate in one tensor, where autograd adds those of each use of a feature by themselves.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sr.nets.cpu.dense import SHARE, SLOPE


def takes(x: Tensor, convs: Sequence[nn.Conv2d]) -> bool:
    """Whether `block` supports this input and these 3x3 convolutions: on a GPU, with gradients, without hooks."""
    if x.device.type == "cpu" or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    kind = x.device.type
    wanted = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else convs[0].weight.dtype
    return x.dtype == wanted and not any(each._forward_hooks or each._forward_pre_hooks for each in convs)


def block(x: Tensor, convs: Sequence[nn.Conv2d], *, recompute: bool = True) -> Tensor:
    """x + SHARE * convs[-1](all features), where each other convolution adds its features to those before it.

    recompute: copy the inputs of the convolutions from the features again in the backward pass, which takes 4 kernels
    and 0.3 of the memory of storing them. Second-order gradients are not supported.
    """
    parameters = [part for each in convs for part in (each.weight, each.bias)]
    made: Tensor = _Block.apply(x, recompute, *parameters)
    return made


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, recompute: bool, *parameters: Tensor) -> Tensor:
        cast = _cast(parameters, x.dtype)
        weights, biases = cast[::2], cast[1::2]
        features, inputs = [x], [x]
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            features.append(F.leaky_relu_(F.conv2d(inputs[-1], weight, bias, padding=1), SLOPE))
            inputs.append(torch.cat(features, 1))
        ctx.dtype = parameters[0].dtype
        ctx.save_for_backward(*weights, *(inputs[-1:] if recompute else inputs))
        return torch.add(x, F.conv2d(inputs[-1], weights[-1], biases[-1], padding=1), alpha=SHARE)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights, inputs = ctx.saved_tensors[:5], ctx.saved_tensors[5:]
        features = inputs[-1]
        passed, *found = _gradients(gradient * SHARE, features, weights[-1])
        owns: list[Tensor] = []
        for number in reversed(range(4)):
            weight = weights[number]
            below = weight.shape[1]
            own = slice(below, below + len(weight))
            of_own = torch.ops.aten.leaky_relu_backward(passed[:, own], features[:, own], SLOPE, True)
            source = inputs[number] if inputs[1:] else features[:, :below].clone()
            more, of_weight, _ = _gradients(of_own, source, weight, bias=False)
            passed[:, :below].add_(more)
            found, owns = [of_weight, *found], [of_own, *owns]
        biases = torch.cat(owns, 1).sum((0, 2, 3), dtype=ctx.dtype).split([len(weight) for weight in weights[:4]])
        *wide, last = _cast(found, ctx.dtype)
        passed = passed[:, : gradient.shape[1]] + gradient
        return passed, None, *(part for pair in zip(wide, biases, strict=False) for part in pair), wide[-1], last


def _gradients(gradient: Tensor, source: Tensor, weight: Tensor, *, bias: bool = True) -> tuple[Any, ...]:
    """Return the gradients of the input, the weight and, if wanted, the bias of a convolution."""
    one, zero = [1, 1], [0, 0]
    settings = one, one, one, False, zero, 1, [True, True, bias]
    made: tuple[Any, ...] = torch.ops.aten.convolution_backward(gradient, source, weight, [len(weight)], *settings)
    return made


def _cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> Sequence[Tensor]:
    """Convert all tensors, with one kernel."""
    if tensors[0].dtype == dtype:
        return tensors
    made = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    torch._foreach_copy_(made, list(tensors))
    return made
