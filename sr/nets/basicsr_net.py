"""Any network of basicsr's registry as a generator."""

import functools
from collections.abc import Callable

from torch import nn

from sr.core.errors import UserError, nearest
from sr.nets.adapt import adapt
from sr.nets.io.basicsr import basicsr


@functools.cache
def basicsr_net(name: str) -> Callable[..., nn.Module]:
    """Return the constructor of a network of basicsr by its registered name, as in `type: basicsr.SwinIR`.

    It has basicsr's parameters, keyword-only; `scale` sets `upscale` or `scale` if the network has one. Parameter
    names are those of basicsr. Raises UserError if basicsr is not installed or lacks the name.
    """
    basicsr("archs")
    known = {key.removesuffix("_basicsr"): kind for key, kind in basicsr("utils.registry").ARCH_REGISTRY}
    if name not in known:
        raise UserError(f"basicsr has no network '{name}'. It has {', '.join(known)}.{nearest(name, list(known))}")
    return adapt(f"basicsr.{name}", known[name])
