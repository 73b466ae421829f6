"""Optimizers by name, in their fused implementation (one pass over the weights per step)."""

from collections.abc import Iterable
from typing import Annotated

import torch
from pydantic import Field
from torch.nn import Parameter

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


OPTIMIZERS = {"adam": adam, "adamw": adamw}
