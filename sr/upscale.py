"""Pictures, files or folder trees, through a trained generator."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sr import bicubic
from sr.errors import UserError
from sr.images import Picture
from sr.jobs import OnTiles, Report, convert
from sr.nets.models import Model, open_model
from sr.tiles import check_overlap, tiled

TILE, OVERLAP = 256, 32  # input pixels


# ---- models ----------------------------------------------------------------------------------------------------------


class Bicubic(nn.Module):
    """MATLAB's bicubic enlargement in the place of a generator: what every generator has to beat."""

    def __init__(self, *, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return bicubic.resize(x, scale=self.scale)


def pick_model(name: str, *, scale: int | None = None) -> Model:
    """The model in a file, or the word `bicubic`. Raises UserError when it is not of `scale`, or not for RGB."""
    if name == "bicubic":
        if scale is None:
            raise UserError("bicubic has no scale of its own; say which with --scale 4")
        return Model(Bicubic(scale=scale), scale, 1, f"bicubic x{scale}")
    model = open_model(name, expect_scale=scale)
    if (model.channels, model.out_channels) != (3, 3):
        kind = f"takes pictures of {model.channels} channels and makes {model.out_channels}"
        raise UserError(f"{name} {kind}; give a model for RGB, or use sr translate")
    return model


# ---- pictures --------------------------------------------------------------------------------------------------------


def through(
    model: Model,
    image: Tensor,
    *,
    tile: int,
    overlap: int,
    device: torch.device | str,
    on_tiles: OnTiles | None = None,
) -> Tensor:
    """What the net makes of an image: [c, h, w] in 0..1 -> float32 [C, h*scale, w*scale] on the host, clipped to 0..1.

    Raises UserError where the net returns numbers that are no picture.
    """
    options = {"scale": model.scale, "tile": tile, "overlap": overlap, "multiple": model.multiple}
    made = tiled(model.net, image[None], device=device, on_tiles=on_tiles, **options)[0]
    if not torch.isfinite(made).all():
        raise UserError(f"{model.name} returned values that are not finite; the model is broken, give another")
    return made.clamp(0, 1)


def enlarge(
    picture: Picture,
    model: Model,
    *,
    tile: int = TILE,
    overlap: int = OVERLAP,
    device: torch.device | str = "cpu",
    on_tiles: OnTiles | None = None,
) -> Picture:
    """The picture model.scale times larger, of the same kind: gray stays gray, 16 bit stays 16 bit, alpha is kept.

    The network sees the colours under transparent pixels too; alpha itself is enlarged by bicubic.
    """
    rgb = through(model, picture.rgb, tile=tile, overlap=overlap, device=device, on_tiles=on_tiles)
    alpha = None if picture.alpha is None else bicubic.resize(picture.alpha, scale=model.scale).clamp(0, 1)
    return dataclasses.replace(picture, rgb=rgb, alpha=alpha)


def upscale(
    inputs: Sequence[Path],
    output: Path,
    model: Model,
    *,
    tile: int = TILE,
    overlap: int = OVERLAP,
    device: torch.device | str = "cpu",
    format: str | None = None,
    suffix: str = "",
) -> Report:
    """Enlarge files and folder trees into `output`, as `sr.jobs.convert` writes them."""
    check_overlap(tile, overlap)
    model.net.to(device)

    def work(picture: Picture, on_tiles: OnTiles) -> Picture:
        return enlarge(picture, model, tile=tile, overlap=overlap, device=device, on_tiles=on_tiles)

    return convert(inputs, output, work, title=model.name, format=format, suffix=suffix)
