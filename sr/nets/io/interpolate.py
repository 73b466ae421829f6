"""Network interpolation: the weighted mean of models of one architecture (ESRGAN, section 3.4)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from sr.core.errors import UserError
from sr.nets.io.load import Model, open_model


def blend(parts: Sequence[str], *, expect_scale: int | None = None, locate: Callable[[str], Path] = Path) -> Model:
    """Return a model whose weights are the weighted mean of other models, as in ["psnr.pth:0.7", "gan.pth:0.3"].

    Shares are normalized to a sum of 1; the default share is 1. Buffers that are not floating point are copied from
    the first model. Raises UserError if a file cannot be read, or if its architecture differs from the first.
    locate: from a name to the file.
    """
    if len(parts) < 2:
        raise UserError(f"--blend got {len(parts)} model; give two or more, as --blend A.pth:0.7 B.pth:0.3")
    named = [_split_share(part) for part in parts]
    total = sum(share for _, share in named)
    models = [(path, open_model(locate(path), expect_scale=expect_scale), share / total) for path, share in named]
    first_path, first, _ = models[0]
    for path, model, _ in models[1:]:
        _check(first_path, first, path, model)
    states = [(model.net.state_dict(), share) for _, model, share in models]
    with torch.no_grad():
        for key, value in states[0][0].items():
            if value.is_floating_point():
                value.copy_(sum(state[key].double() * share for state, share in states))
    mixed = " + ".join(f"{share:.0%} {Path(path).name}" for path, _, share in models)
    return replace(first, name=f"{first.name}, {mixed}")


def _split_share(part: str) -> tuple[str, float]:
    """Return path and share. A colon without a number after it belongs to the path (C:\\models\\a.pth)."""
    path, colon, number = part.rpartition(":")
    try:
        share = float(number) if colon else 1.0
    except ValueError:
        path, share = part, 1.0
    path = path if colon and path else part
    if not 0 < share < float("inf"):
        raise UserError(f"--blend {part}: the share is {share:g}; give a number above 0, or leave the model out")
    return path, share


def _check(first_path: str, first: Model, path: str, model: Model) -> None:
    """Raise UserError, naming the first parameter that differs, unless the architectures are equal."""
    if first.scale != model.scale:
        raise UserError(f"{path} upscales by {model.scale}, {first_path} by {first.scale}; blend models of one scale")
    ours, theirs = first.net.state_dict(), model.net.state_dict()
    for key in [*ours, *(key for key in theirs if key not in ours)]:
        shapes = [list(state[key].shape) if key in state else "missing" for state in (ours, theirs)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{first_path} and {path} are of two architectures: '{key}' is {shapes[0]} in the first and "
                f"{shapes[1]} in the second; blend models of one architecture"
            )
    if type(first.net) is not type(model.net) or first.multiple != model.multiple or first.colours != model.colours:
        raise UserError(f"{first_path} is {first.name}, {path} {model.name}; blend models of one architecture")
