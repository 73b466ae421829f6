"""Any network of basicsr's registry as a generator."""

import functools
import inspect
from collections.abc import Callable
from inspect import Parameter
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from sr.core.errors import UserError, first_line, nearest
from sr.nets.io.basicsr import basicsr
from sr.nets.io.pad_to_multiple import any_size

SCALE = frozenset({"upscale", "scale"})


@functools.cache
def basicsr_net(name: str) -> Callable[..., nn.Module]:
    """Return the constructor of a network of basicsr by its registered name, as in `type: basicsr.SwinIR`.

    It has basicsr's parameters, keyword-only; `scale` sets `upscale` or `scale` if the network has one. Parameter
    names are those of basicsr. Raises UserError if basicsr is not installed or lacks the name.
    """
    kind = _registered(name)
    own = _options_of(kind)

    def build(*, scale: int, **kwargs: Any) -> nn.Module:
        net = _build(f"basicsr.{name}", kind, kwargs | _scale(f"basicsr.{name}", scale, kwargs, own))
        window = kwargs.get("window_size", own["window_size"].default) if "window_size" in own else 1
        net.scale = scale  # type: ignore[assignment]
        return any_size(net, scale=scale, multiple=window)

    parameters = {"scale": Parameter("scale", Parameter.KEYWORD_ONLY)} | own
    build.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    return build


def _registered(name: str) -> type[nn.Module]:
    basicsr("archs")
    known = {key.removesuffix("_basicsr"): kind for key, kind in basicsr("utils.registry").ARCH_REGISTRY}
    if name not in known:
        raise UserError(f"basicsr has no network '{name}'. It has {', '.join(known)}.{nearest(name, list(known))}")
    return known[name]


def _options_of(kind: type[nn.Module]) -> dict[str, Parameter]:
    """Return the parameters that options can set: neither classes nor **kwargs, which would accept any name."""
    found = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        a_class = inspect.isclass(parameter.default) and parameter.default is not Parameter.empty
        if parameter.kind is Parameter.POSITIONAL_OR_KEYWORD and not a_class:
            found[name] = parameter.replace(kind=Parameter.KEYWORD_ONLY)
    for key in SCALE.intersection(found):
        found[key] = found[key].replace(default=None)  # set from the scale of the options
    return found


def _scale(name: str, scale: int, kwargs: dict[str, Any], own: dict[str, Parameter]) -> dict[str, int]:
    """Return the scale under the name that the network uses."""
    keys = SCALE.intersection(own)
    if not keys and scale != 1:
        raise UserError(f"{name} does not upscale, but scale is {scale}; set scale: 1 or choose another generator")
    for key in keys:
        if kwargs.get(key) not in (None, scale):
            raise UserError(f"{name}: {key} {kwargs[key]} is not the scale of these options, {scale}; leave it out")
    return dict.fromkeys(keys, scale)


def _build(name: str, kind: type[nn.Module], kwargs: dict[str, Any]) -> nn.Module:
    try:
        with _NumbersOnHost():
            try:
                return kind(**kwargs)
            except TypeError:  # `torch.FloatTensor(size)`, as in ECBSR, is for the CPU only
                device = torch.get_default_device()
                with torch.device("cpu"):
                    return kind(**kwargs).to(device)
    except Exception as error:  # basicsr checks few values; a wrong one may fail anywhere
        raise UserError(f"{name} cannot be built from these parameters ({first_line(error)}); correct them") from None


class _NumbersOnHost(TorchFunctionMode):
    """Put torch.linspace on the CPU: some constructors read its values, which meta tensors do not have."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.linspace:
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)
