"""Limits on the size of nets: a mistyped or malicious number must not exhaust memory or time."""

from collections.abc import Iterator, Sized
from contextlib import AbstractContextManager, contextmanager

from torch.nn.modules import module

MOST = 200_000  # layers and parameters; RRDBNet with 23 blocks has 1,600


@contextmanager
def bounded(most: int = MOST) -> Iterator[None]:
    """Raise ValueError inside the block as soon as more than `most` layers and parameters are registered."""
    count = 0

    def registered(*_: object) -> None:
        nonlocal count
        count += 1
        if count > most:
            raise ValueError(f"more than {most} layers and parameters")

    hooks = (
        module.register_module_module_registration_hook(registered),
        module.register_module_parameter_registration_hook(registered),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def as_large_as(state: Sized) -> AbstractContextManager[None]:
    """Limit the size of a net that is built from a file in proportion to the number of tensors in the file."""
    return bounded(20 * len(state) + 1000)
