"""Model files with random weights that produce visible output."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from sr.nets import GENERATORS
from sr.nets.io.load import architecture
from sr.nets.io.state_dicts import save_safetensors

SMALL: dict[str, dict[str, Any]] = {
    "rrdbnet": {"num_feat": 8, "num_block": 1, "num_grow_ch": 4},
    "srresnet": {"num_feat": 8, "num_block": 1},
    "edsr": {"num_feat": 8, "num_block": 1},
    "rcan": {"num_feat": 8, "num_block": 1, "num_group": 1, "squeeze_factor": 4},
    "compact": {"num_feat": 8, "num_conv": 2},
}


def save(path: Path, kind: str, *, prefixes=("",), extra: dict[str, str] | None = None, **kwargs: Any) -> list[Any]:
    """Write a translation model whose output is not flat; return its generators, one for each prefix of the keys."""
    torch.manual_seed(0)
    kwargs, state, nets = {"scale": 1, "num_feat": 8} | kwargs, {}, []
    for prefix in prefixes:
        net = GENERATORS[kind](**kwargs).eval()
        for parameter in net.parameters():
            parameter.data *= 5
        state |= {prefix + key: value for key, value in net.state_dict().items()}
        nets.append(net)
    save_safetensors(path, state, architecture(kind, kwargs) | (extra or {}))
    return nets


def saved(path: Path, kind: str = "rrdbnet", **kwargs: Any) -> nn.Module:
    """Write a super-resolution model whose output is not flat; return its generator."""
    torch.manual_seed(0)
    kwargs = SMALL[kind] | {"scale": 4} | kwargs
    net = GENERATORS[kind](**kwargs).eval()
    for parameter in net.parameters():
        parameter.data *= 3
    save_safetensors(path, net.state_dict(), architecture(kind, kwargs))
    return net
