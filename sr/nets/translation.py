"""Base class and layers of the generators of pix2pix (Isola et al. 2017) and CycleGAN (Zhu et al. 2017)."""

import inspect
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.core.errors import UserError
from sr.nets.norm import InstanceNorm

Norm = Literal["batch", "instance"]
TestTime = Literal["paper", "eval"]


class Translator(nn.Module):
    """[B, num_in_ch, h, w] -> [B, num_out_ch, h, w], both in 0..1, around a published network for -1..1.

    model: the network, under its published names, including its tanh. `initialise` sets its weights.
    h and w: any in eval mode, where they are padded to `multiple` and the output is cropped. In training a ValueError
    is raised unless they are multiples, because a crop that is mostly padding is of no use for training.
    test_time: the behavior in eval mode. `paper` (section 3.4 of pix2pix, and the published test.py): dropout stays
    active, and batch norm uses the statistics of the image. `eval`: no dropout, running statistics. The attribute can
    be changed later. Raises UserError for a scale other than 1.
    """

    def __init__(self, model: nn.Module, *, scale: int, multiple: int, test_time: TestTime) -> None:
        super().__init__()
        if scale != 1:
            kind = type(self).__name__
            raise UserError(f"{kind} does not upscale, but scale is {scale}; set scale: 1 or choose another generator")
        self.scale, self.multiple = scale, multiple
        self.model = model
        self.test_time = test_time
        initialise(self)

    @property
    def test_time(self) -> TestTime:
        return self._test_time

    @test_time.setter
    def test_time(self, value: TestTime) -> None:
        self._test_time: TestTime = value
        for module in self.modules():
            if isinstance(module, BatchNorm | Dropout):
                module.as_paper = value == "paper"

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        bottom, right = -height % self.multiple, -width % self.multiple
        if bottom or right:
            if self.training:
                raise ValueError(f"sides must be multiples of {self.multiple} in training")
            x = F.pad(x, (0, right, 0, bottom), mode="reflect" if right < width and bottom < height else "replicate")
        out: Tensor = self.model(2 * x - 1)
        return (out[..., :height, :width] + 1) / 2


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that uses the statistics of each image in eval mode too, if `as_paper`.

    At the published batch size of 1 this equals its behavior in training. Running statistics are not changed.
    """

    as_paper = False

    def forward(self, input: Tensor) -> Tensor:
        if self.training or not self.as_paper:
            return super().forward(input)
        return F.instance_norm(input, weight=self.weight, bias=self.bias, eps=self.eps)


class Dropout(nn.Dropout):
    """Dropout that stays active in eval mode if `as_paper`: the noise z of pix2pix."""

    as_paper = False

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout(input, self.p, self.training or self.as_paper)


def initialise(net: nn.Module) -> None:
    """Initialize as published: weights from N(0, 0.02), those of norms from N(1, 0.02), biases 0."""
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.normal_(parameter, 0.0 if parameter.ndim > 1 else 1.0, 0.02)


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """Return a norm layer. Instance norm has no parameters, so the convolution before it has a bias."""
    return BatchNorm(channels) if norm == "batch" else InstanceNorm(channels)


class _FullPrecision:
    """A last layer that is never half precision: rounding would remove the gradient of a loss small next to L1."""

    weight: Tensor

    def forward(self, input: Tensor) -> Tensor:
        inner: Any = super()
        with torch.autocast(input.device.type, enabled=False):
            out: Tensor = inner.forward(input.to(self.weight.dtype))
        return out


class LastConv2d(_FullPrecision, nn.Conv2d):
    pass


class LastConvTranspose2d(_FullPrecision, nn.ConvTranspose2d):  # type: ignore[misc]
    pass


def preset(kind: type[Translator], **fixed: Any) -> Callable[..., Translator]:
    """Return the constructor of `kind` with some parameters fixed; the others keep their types and defaults."""

    def build(**kwargs: Any) -> Translator:
        return kind(**kwargs, **fixed)

    free = [parameter for name, parameter in inspect.signature(kind).parameters.items() if name not in fixed]
    build.__signature__ = inspect.Signature(free)  # type: ignore[attr-defined]
    build.__annotations__ = {parameter.name: parameter.annotation for parameter in free}
    build.__doc__ = f"{kind.__name__} with {', '.join(f'{name} {value}' for name, value in fixed.items())}."
    return build
