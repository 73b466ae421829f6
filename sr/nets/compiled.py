"""torch.compile for nets in training."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
import torch._functorch.config as functorch
from torch import nn

from sr.core.cache_folder import cache_folder
from sr.core.errors import first_line

REPEATED = 4  # consecutive equal blocks from which compiling one block pays


def compile_net(
    net: nn.Module, *, backend: str | Callable[..., Any] = "inductor", failed: Callable[[str], None] = print
) -> None:
    """Compile `net` in place, for static shapes; its parameters keep their names.

    Consecutive equal blocks (RRDBs) are compiled block by block, which takes one compilation for all of them; the
    layers around them then run eagerly. A compiled net does not support double backward, and does not call hooks that
    were registered on its modules after the first forward. If compilation fails, the net runs eagerly, and `failed` is
    called once with a sentence.
    """
    functorch.donated_buffer = False  # the gradient share of each loss runs backward through the same graph again
    if hasattr(functorch, "force_non_lazy_backward_lowering"):  # torch 2.8: errors are raised before anything has run
        functorch.force_non_lazy_backward_lowering = True
    with suppress(RuntimeError):  # no home folder
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder("compiled")))
    modules = repeated_blocks(net) or [net]
    for module in modules:
        module.compile(backend=backend, dynamic=False)
        compiled: Any = module._compiled_call_impl
        module._compiled_call_impl = partial(_or_eager, module, compiled, modules, failed)


def repeated_blocks(net: nn.Module) -> list[nn.Module]:
    """Return the blocks of `net` that are compiled one by one."""
    return [block for row in net.modules() if _repeats(row) for block in row.children()]


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile has what it needs for a CUDA device: Triton, and a GPU that Triton supports."""
    from torch.utils._triton import has_triton

    return device.type == "cuda" and has_triton()


def _or_eager(
    module: nn.Module,
    compiled: Callable[..., Any],
    modules: Sequence[nn.Module],
    failed: Callable[[str], None],
    *args: Any,
    **kwargs: Any,
) -> Any:
    try:
        return compiled(*args, **kwargs)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # one that is not due to the compiler is raised again below
        if module._compiled_call_impl is not None:
            failed(f"compilation failed ({first_line(error)}); training continues without")
        for each in modules:
            each._compiled_call_impl = None
    return module(*args, **kwargs)


def _repeats(row: nn.Module) -> bool:
    kinds = {type(block) for block in row.children()}
    return isinstance(row, nn.Sequential | nn.ModuleList) and len(row) >= REPEATED and len(kinds) == 1
