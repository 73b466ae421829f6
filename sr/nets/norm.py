"""Norms that are right where torch's own are not."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def keep_statistics(net: nn.Module) -> None:
    """Let every batch norm of `net` run twice before one backward under DDP, as a discriminator must.

    Before each forward DDP writes rank 0's running statistics over those of the others, in place; in older torch
    (pytorch issue 175024) autograd then refuses the backward of the forward before, which remembers them though it
    has no use for them. So after each forward in training the module goes on with copies, two numbers a channel.
    """
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_hook(_go_on_with_copies)


def _go_on_with_copies(module: Any, inputs: Any, output: Any) -> None:
    if module.training and module.running_mean is not None:
        module.running_mean = module.running_mean.clone()
        module.running_var = module.running_var.clone()


class InstanceNorm(nn.InstanceNorm2d):
    """Instance norm without weights and statistics (Ulyanov et al. 2016), as a group norm of one channel a group.

    The same numbers; but torch's own goes through batch norm, whose backward on a CPU is wrong for one image in
    channels_last (seen in torch 2.15: gradients without likeness to the right ones).
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.num_features, eps=self.eps)
