"""Activation checkpointing: recompute activations of repeated blocks in the backward pass instead of storing them."""

import functools
from collections import Counter
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

LEAST = 2  # equal blocks in a row


def checkpoint_blocks(net: nn.Module) -> int:
    """Make the repeated blocks of `net` recompute their activations in training. Returns how many there are.

    The blocks are the children of the outermost lists (ModuleList, Sequential) that mostly hold modules of one class
    with parameters. Names of parameters and gradients stay the same; random numbers are drawn again alike.
    """
    blocks = list(_blocks(net))
    for block in blocks:
        block.forward = functools.partial(_recomputed, block, type(block).forward)
    return len(blocks)


def _blocks(module: nn.Module) -> Any:
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.Sequential) and (repeated := _repeated(child)):
            yield from repeated
        else:
            yield from _blocks(child)


def _repeated(row: nn.Module) -> list[nn.Module]:
    """Return the children of the most frequent class, if they are blocks, which have children of their own."""
    kinds = Counter(type(block) for block in row.children() if len(list(block.children())) > 1)
    kind, count = kinds.most_common(1)[0] if kinds else (None, 0)
    return [block for block in row.children() if type(block) is kind] if count >= LEAST else []


def _recomputed(block: nn.Module, forward: Any, *args: Any, **kwargs: Any) -> Any:
    if not block.training:
        return forward(block, *args, **kwargs)
    return checkpoint(forward, block, *args, use_reentrant=False, **kwargs)
