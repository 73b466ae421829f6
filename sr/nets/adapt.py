"""Networks of other packages as generators: the parameters of their constructors become options."""

import inspect
import typing
from collections.abc import Callable, Mapping
from inspect import Parameter
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from sr.core.errors import UserError, first_line
from sr.nets.io.pad_to_multiple import any_size

SCALE = frozenset({"upscale", "scale", "up_scale", "upscale_factor", "upscaling_factor"})


def adapt(
    name: str,
    kind: type[nn.Module],
    *,
    multiple: int | str = "window_size",
    minimum: int = 1,
    scales: tuple[int, ...] | None = None,
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> Callable[..., nn.Module]:
    """Return a constructor of `kind` with its own parameters, keyword-only; `scale` sets the one that it has for it.

    multiple: of the sides of its input, or the parameter that holds it (1 where there is none). scales: those that it
    can have, where it has no parameter for the scale or ignores other values. defaults: replace those of `kind`.
    """
    own = _options_of(kind, defaults)

    def build(*, scale: int, **kwargs: Any) -> nn.Module:
        given = dict(defaults) | kwargs | _scale(name, scale, kwargs, own, scales)
        net = _build(name, kind, given)
        side = multiple
        if isinstance(side, str):
            side = given.get(side, own[side].default) if side in own else 1
        net.scale = scale  # type: ignore[assignment]
        return any_size(net, scale=scale, multiple=side, minimum=minimum)

    build.__name__ = name
    build.__doc__ = f"The network {kind.__name__}, whose parameters {name.partition('.')[0]} documents."
    build.__annotations__ = {key: hint for key, hint in _hints(kind).items() if key in own and key not in SCALE}
    parameters = {"scale": Parameter("scale", Parameter.KEYWORD_ONLY)} | own
    build.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    return build


def _hints(kind: type[nn.Module]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind.__init__)
    except NameError:  # written for type checkers only
        return {}


def _options_of(kind: type[nn.Module], defaults: Mapping[str, Any]) -> dict[str, Parameter]:
    """Return the parameters that options can set: neither code nor **kwargs, which would accept any name."""
    found = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        code = callable(parameter.default) and parameter.default is not Parameter.empty
        if parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY) and not code:
            default = None if name in SCALE else defaults.get(name, parameter.default)
            found[name] = parameter.replace(kind=Parameter.KEYWORD_ONLY, default=default)
    return found


def _scale(
    name: str, scale: int, kwargs: dict[str, Any], own: dict[str, Parameter], scales: tuple[int, ...] | None
) -> dict[str, int]:
    """Return the scale under the name that the network uses."""
    keys = SCALE.intersection(own)
    known = scales or (None if keys else (1,))
    if known is not None and scale not in known:
        one = f"scale: {known[0]}" if len(known) == 1 else f"scale to one of {', '.join(map(str, known))}"
        what = "does not upscale" if known == (1,) else f"upscales by {' or '.join(map(str, known))} only"
        raise UserError(f"{name} {what}, but scale is {scale}; set {one} or choose another generator")
    for key in keys:
        if kwargs.get(key) not in (None, scale):
            raise UserError(f"{name}: {key} {kwargs[key]} is not the scale of these options, {scale}; leave it out")
    return dict.fromkeys(keys, scale)


def _build(name: str, kind: type[nn.Module], kwargs: dict[str, Any]) -> nn.Module:
    try:
        with _NumbersOnHost():
            try:
                return kind(**kwargs)
            except (TypeError, RuntimeError):  # some compute in their constructors, which meta tensors cannot
                device = torch.get_default_device()
                with torch.device("cpu"):
                    return kind(**kwargs).to(device)
    except Exception as error:  # few of them check their values; a wrong one may fail anywhere
        raise UserError(f"{name} cannot be built from these parameters ({first_line(error)}); correct them") from None


class _NumbersOnHost(TorchFunctionMode):
    """Put torch.linspace on the CPU: some constructors read its values, which meta tensors do not have."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.linspace:
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)
