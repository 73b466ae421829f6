"""Corrections for normalization layers of torch."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def keep_statistics(net: nn.Module) -> None:
    """Allow two forwards of every batch norm in `net` before one backward under DDP, as discriminators need.

    Before each forward DDP overwrites the running statistics of all ranks with those of rank 0, in place. In older
    torch (pytorch issue 175024) autograd then refuses the backward of the previous forward, which saved them without
    needing them. So each training forward replaces them by copies: two numbers per channel.
    """
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_hook(_copy_statistics)


def _copy_statistics(module: Any, inputs: Any, output: Any) -> None:
    if module.training and module.running_mean is not None:
        module.running_mean = module.running_mean.clone()
        module.running_var = module.running_var.clone()


class InstanceNorm(nn.InstanceNorm2d):
    """Instance norm without weights and statistics (Ulyanov et al. 2016), as a group norm with one channel per group.

    The output equals torch's InstanceNorm2d. That class uses batch norm, whose backward on a CPU is wrong for a
    single image in channels_last (torch 2.15).
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.num_features, eps=self.eps)
