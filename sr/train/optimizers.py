"""Optimizers by name, in their fused implementation (one pass over the weights per step)."""

import fnmatch
import functools
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn
from torch.nn import Parameter

from sr.core.errors import UserError, first_line, nearest

Rate = Annotated[float, Field(gt=0)]
Betas = tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
Decay = Annotated[float, Field(ge=0)]


def adam(
    params: Iterable[Parameter],
    *,
    lr: Rate,
    betas: Betas = (0.9, 0.99),
    weight_decay: Decay = 0.0,
    eps: Rate = 1e-8,
) -> torch.optim.Optimizer:
    """Adam, Kingma and Ba 2015. betas: (0.9, 0.99) as in ESRGAN."""
    return torch.optim.Adam(params, lr=lr, betas=betas, weight_decay=weight_decay, eps=eps, fused=True)


def adamw(
    params: Iterable[Parameter],
    *,
    lr: Rate,
    betas: Betas = (0.9, 0.99),
    weight_decay: Decay = 0.01,
    eps: Rate = 1e-8,
) -> torch.optim.Optimizer:
    """AdamW, Loshchilov and Hutter 2019: decoupled weight decay."""
    return torch.optim.AdamW(params, lr=lr, betas=betas, weight_decay=weight_decay, eps=eps, fused=True)


KNOWN = {
    "torch": ("Adadelta", "Adafactor", "Adagrad", "Adamax", "NAdam", "RAdam", "RMSprop", "SGD"),
    "timm": (
        *("AdaBelief", "AdamP", "Adan", "Adopt", "LaProp", "Lamb", "Lion", "MADGRAD", "Mars", "Muon", "NAdamW"),
        *("NvNovoGrad", "SGDP", "SGDW"),
    ),
    "pytorch_optimizer": ("AdEMAMix", "CAME", "Prodigy", "SOAP", "StableAdamW"),
}
"""Optimizers that resume exactly, and whose licence is Apache-2.0, MIT or BSD."""
NAMED = tuple(f"{package}.{name}" for package, names in KNOWN.items() for name in names)
_MODULES = {"torch": "torch.optim", "timm": "timm.optim", "pytorch_optimizer": "pytorch_optimizer"}


def _family(package: str) -> Callable[[str], Any]:
    @functools.cache
    def member(name: str) -> Any:
        """Return a class of the package by its name."""
        if name.startswith("ScheduleFree"):
            raise UserError(
                f"{package}.{name} replaces the average (EMA) and the schedule by its own, and needs another loop; use "
                "adamw with train.ema_decay and schedule: {type: cosine}"
            )
        if name not in KNOWN[package]:
            known = ", ".join(KNOWN[package])
            hint = nearest(name, ["adam", "adamw", *NAMED], cutoff=1) or nearest(name, KNOWN[package])
            raise UserError(f"no optimizer {package}.{name} here. Known: {known}.{hint}")
        if find_spec(package) is None:
            raise UserError(f"{package}.{name} needs the package {package}: pip install 'sr-train[optimizers]'")
        return getattr(importlib.import_module(_MODULES[package]), name)

    return member


OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "adam": adam,
    "adamw": adamw,
    **{f"{package}.*": _family(package) for package in KNOWN},
}


def build(
    make: Callable[[Any], torch.optim.Optimizer],
    net: nn.Module,
    *,
    name: str,
    no_decay: Sequence[str] = (),
    lr_scale: Mapping[str, float] | None = None,
) -> torch.optim.Optimizer:
    """Return the optimizer of a network; `make` is called with its trainable parameters, in groups.

    no_decay: patterns of parameters without weight decay. lr_scale: pattern -> factor on the learning rate; the first
    one that matches counts. Raises UserError for patterns that match nothing, and for networks it does not support.
    """
    trained = {key: parameter for key, parameter in net.named_parameters() if parameter.requires_grad}
    scales = lr_scale or {}
    for option, pattern in [*(("no_decay", one) for one in no_decay), *(("lr_scale", one) for one in scales)]:
        if not fnmatch.filter(trained, pattern):
            raise UserError(f"optimizer.{name}.{option}: '{pattern}' matches no parameter; give one such as '*.bias'")
    groups: dict[tuple[bool, float], list[Parameter]] = {}
    for key, parameter in trained.items():
        plain = any(fnmatch.fnmatchcase(key, pattern) for pattern in no_decay)
        factor = next((factor for pattern, factor in scales.items() if fnmatch.fnmatchcase(key, pattern)), 1.0)
        groups.setdefault((plain, factor), []).append(parameter)
    try:
        made = make([{"params": parameters} for parameters in groups.values()])
    except ValueError as error:
        raise UserError(f"optimizer.{name} cannot be made ({first_line(error)}); change it") from None
    for group, (plain, factor) in zip(made.param_groups, groups, strict=True):
        group["lr"] *= factor
        if plain:
            group["weight_decay"] = 0.0
    return made
