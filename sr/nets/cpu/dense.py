"""A residual dense block as one operation, if its convolutions are those of `sr.nets.cpu.winograd`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sr.nets.cpu.winograd import LAYOUT, Conv2d, Side, channels_last, conv, fits, kernel_gradient, side

SLOPE, SHARE = 0.2, 0.2  # of the leaky ReLU after each convolution but the last; of what the block adds


def takes(x: Tensor, convs: Sequence[nn.Conv2d]) -> bool:
    """Whether `block` supports these convolutions: all fit, and none has hooks."""
    return all(
        type(each) is Conv2d and fits(x, each.weight) and not each._forward_hooks and not each._forward_pre_hooks
        for each in convs
    )


def block(x: Tensor, convs: Sequence[nn.Conv2d]) -> Tensor:
    """x + SHARE * convs[-1](all features), where each other convolution adds its features to those before it.

    All features are in one tensor, so that nothing is concatenated in either direction and the backward pass stores
    each feature once. Second-order gradients are not supported.
    """
    parameters = [part for each in convs for part in (each.weight, each.bias)]
    made: Tensor = _Block.apply(x, side(x, *parameters), *parameters)
    return made


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, side: Side, *parameters: Tensor) -> Tensor:
        weights, biases = parameters[::2], parameters[1::2]
        (batch, known, height, width), last = x.shape, weights[-1]
        features = torch.empty((batch, last.shape[1], height, width), memory_format=LAYOUT)
        features[:, :known] = x
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            below = weight.shape[1]
            above = features[:, below : below + len(weight)]
            conv(features[:, :below], weight, bias, slope=SLOPE, into=above, side=side)
        ctx.save_for_backward(features, *weights)
        return conv(features, last, biases[-1], factor=SHARE, add=x, side=side)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, *weights, last = ctx.saved_tensors
        gradient = channels_last(gradient)
        passed = conv(gradient, last, transposed=True, factor=SHARE)
        found = [SHARE * kernel_gradient(features, gradient, last), SHARE * gradient.sum((0, 2, 3))]
        for weight in reversed(weights):
            below = weight.shape[1]
            own = slice(below, below + len(weight))
            of_own = torch.ops.aten.leaky_relu_backward(passed[:, own], features[:, own], SLOPE, True)
            found = [kernel_gradient(features[:, :below], of_own, weight), of_own.sum((0, 2, 3)), *found]
            conv(of_own, weight, transposed=True, add=passed[:, :below], into=passed[:, :below])
        return gradient + passed[:, : gradient.shape[1]], None, *found
