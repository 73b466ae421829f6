"""torch.compile for nets in training."""

import torch._functorch.config as functorch
from torch import nn

REPEATED = 4  # consecutive equal blocks from which compiling one block pays


def compile_net(net: nn.Module, *, backend: str = "inductor") -> None:
    """Compile `net` in place, for static shapes; its parameters keep their names.

    Consecutive equal blocks (RRDBs) are compiled block by block, which takes one compilation for all of them; the
    layers around them then run eagerly. A compiled net does not support double backward, and does not call hooks that
    were registered on its modules after the first forward.
    """
    functorch.donated_buffer = False  # the gradient share of each loss runs backward through the same graph again
    blocks = [block for row in net.modules() if _repeats(row) for block in row.children()]
    for module in blocks or [net]:
        module.compile(backend=backend, dynamic=False)


def _repeats(row: nn.Module) -> bool:
    kinds = {type(block) for block in row.children()}
    return isinstance(row, nn.Sequential | nn.ModuleList) and len(row) >= REPEATED and len(kinds) == 1
