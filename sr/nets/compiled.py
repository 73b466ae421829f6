"""torch.compile for the nets of a training."""

import torch._functorch.config as functorch
from torch import nn

REPEATED = 4  # equal blocks in a row that are worth compiling once for all


def compile_net(net: nn.Module, *, backend: str = "inductor") -> None:
    """Compile `net` in place, for the shapes that it will meet in training; its parameters keep their names.

    Where equal blocks follow on each other (RRDBs), each is compiled for itself: that is one compilation for all of
    them instead of one that grows with their number. What stands around them then runs as it is.
    A compiled net has no gradients of gradients, and calls no hooks that were hung on its modules after its first use.
    """
    functorch.donated_buffer = False  # the shares of the losses are gradients through a graph that is used again
    blocks = [block for row in net.modules() if _repeats(row) for block in row.children()]
    for module in blocks or [net]:
        module.compile(backend=backend, dynamic=False)


def _repeats(row: nn.Module) -> bool:
    kinds = {type(block) for block in row.children()}
    return isinstance(row, nn.Sequential | nn.ModuleList) and len(row) >= REPEATED and len(kinds) == 1
