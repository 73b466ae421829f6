"""Spectral normalization (Miyato et al. 2018) that is exact under autocast and DDP."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class SpectralConv2d(nn.Module):
    """A convolution whose kernel, as a matrix [out, in * k * k], has spectral norm 1; without bias by default.

    The largest singular value is u^T W v. Each forward in training mode improves u and v by one power iteration; a
    forward in eval mode does not change them. Everything is computed in float32 outside autocast: power iteration
    drifts in half precision, and autocast treats matrix-vector products differently on each device.
    Names (`weight_orig`, `weight_u`, `weight_v`) and values are those of `torch.nn.utils.spectral_norm`, so published
    discriminators load.
    """

    convolve: Callable[..., Tensor] = staticmethod(F.conv2d)
    weight_u: Tensor
    weight_v: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding
        plain = nn.Conv2d(in_channels, out_channels, kernel_size, bias=bias)
        self.weight_orig, self.bias = plain.weight, plain.bias
        self.register_buffer("weight_u", F.normalize(torch.randn(out_channels), dim=0, eps=1e-12))
        self.register_buffer("weight_v", F.normalize(torch.randn(in_channels * kernel_size**2), dim=0, eps=1e-12))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            weight = self._normalised()
        return self.convolve(x, weight, self.bias, stride=self.stride, padding=self.padding)

    def _normalised(self) -> Tensor:
        weight = self.weight_orig.float()
        # Columns are in channels_last order, for which this is a view, in every memory format. Another order rounds
        # sums differently, so backends with different memory formats would drift apart.
        matrix = weight.detach().permute(0, 2, 3, 1).flatten(1)
        stored = self.weight_v.view(weight.shape[1:]).permute(1, 2, 0)
        with torch.no_grad():
            u, v = self.weight_u.float(), stored.float().flatten()
            if self.training:
                v = F.normalize(torch.mv(matrix.t(), u), dim=0, eps=1e-12)
            product = torch.mv(matrix, v)
            if self.training:
                u = F.normalize(product, dim=0, eps=1e-12)
                stored.copy_(v.view(stored.shape))
                self.weight_u.copy_(u)
        # A second forward, or DDP's broadcast, may overwrite the buffers before the backward of this graph.
        made: Tensor = _Divided.apply(weight, product, *((u, v) if self.training else (u.clone(), v.clone())))
        return made.to(self.weight_orig.dtype)


class _Divided(torch.autograd.Function):
    """weight / (u^T W v), where `product` is W v, with half as many kernels as autograd needs."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, product: Tensor, u: Tensor, v: Tensor) -> Tensor:
        sigma = torch.dot(u, product)
        made = weight / sigma
        ctx.save_for_backward(made, sigma, u, v)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        made, sigma, u, v = ctx.saved_tensors
        along = (gradient * made).sum()
        columns = gradient.permute(0, 2, 3, 1)
        passed = torch.addr(columns.flatten(1), u * along, v, alpha=-1).div_(sigma)
        return passed.view(columns.shape).permute(0, 3, 1, 2), None, None, None
