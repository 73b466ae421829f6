"""What the nets of pix2pix (Isola et al. 2017) and CycleGAN (Zhu et al. 2017) have in common."""

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
    """[B, num_in_ch, h, w] -> [B, num_out_ch, h, w], both in 0..1, by a published network that knows -1..1.

    model: that network, under its published names, up to and with its tanh. It starts from `initialise`.
    h and w: any in eval mode, where they are padded to `multiple` and the output is cropped; in training a ValueError
    where they are no multiples, because a crop that is mostly padding teaches nothing.
    test_time: what .eval() means. `paper` (section 3.4 of pix2pix, and the published test.py): dropout stays, and
    batch norm takes the statistics of the image itself; `eval`: no dropout, running statistics. It may be set anew.
    Raises UserError for a scale other than 1.
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
                raise ValueError(f"in training its sides are multiples of {self.multiple}")
            x = F.pad(x, (0, right, 0, bottom), mode="reflect" if right < width and bottom < height else "replicate")
        out: Tensor = self.model(2 * x - 1)
        return (out[..., :height, :width] + 1) / 2


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that in eval mode too takes each image's own statistics, where `as_paper`; at a batch of 1, as
    published, that is what it does in training. The running statistics stay as they are."""

    as_paper = False

    def forward(self, input: Tensor) -> Tensor:
        if self.training or not self.as_paper:
            return super().forward(input)
        return F.instance_norm(input, weight=self.weight, bias=self.bias, eps=self.eps)


class Dropout(nn.Dropout):
    """Dropout that stays in eval mode where `as_paper`: the noise z of pix2pix."""

    as_paper = False

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout(input, self.p, self.training or self.as_paper)


def initialise(net: nn.Module) -> None:
    """Weights from N(0, 0.02), those of norms from N(1, 0.02), biases 0, as published."""
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.normal_(parameter, 0.0 if parameter.ndim > 1 else 1.0, 0.02)


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """Instance norm has no parameters and no running statistics, so the convolution before it has a bias."""
    return BatchNorm(channels) if norm == "batch" else InstanceNorm(channels)


class _Unrounded:
    """The image itself never in half precision: the gradient of a small loss term beside L1's would be rounded away."""

    weight: Tensor

    def forward(self, input: Tensor) -> Tensor:
        inner: Any = super()
        with torch.autocast(input.device.type, enabled=False):
            out: Tensor = inner.forward(input.to(self.weight.dtype))
        return out


class LastConv2d(_Unrounded, nn.Conv2d):
    pass


class LastConvTranspose2d(_Unrounded, nn.ConvTranspose2d):  # type: ignore[misc]
    pass


def preset(kind: type[Translator], **fixed: Any) -> Callable[..., Translator]:
    """The constructor of `kind` with some parameters fixed; the others keep their types and defaults."""

    def build(**kwargs: Any) -> Translator:
        return kind(**kwargs, **fixed)

    free = [parameter for name, parameter in inspect.signature(kind).parameters.items() if name not in fixed]
    build.__signature__ = inspect.Signature(free)  # type: ignore[attr-defined]
    build.__annotations__ = {parameter.name: parameter.annotation for parameter in free}
    build.__doc__ = f"{kind.__name__} with {', '.join(f'{name} {value}' for name, value in fixed.items())}."
    return build
