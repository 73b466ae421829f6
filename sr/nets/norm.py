"""Batch norm under DDP."""

from typing import Any

from torch import nn
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
