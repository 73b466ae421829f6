"""Translate images, files and folder trees: labels to photographs, horses to zebras, grey to colour."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sr.core.errors import UserError
from sr.images import ImageData, color
from sr.images.alpha import bleed_colors
from sr.inference.folders.convert import ConversionReport, OnTiles, convert, fingerprint
from sr.inference.tiling import OVERLAP, check_overlap
from sr.inference.upscale import planes_of, through, with_planes
from sr.inference.zoo import locate
from sr.nets.io.load import Direction, Model, open_model
from sr.nets.io.state_dicts import load_weights

# ---- models ----------------------------------------------------------------------------------------------------------


def pick_translator(name: str, direction: Direction | None = None) -> tuple[Model, Direction]:
    """Open a model file. Returns the model and its direction: `direction`, else the trained one, else a_to_b.

    Raises UserError where the model changes the size.
    """
    file = locate(name)
    chosen = direction or trained_direction(file)
    model = open_model(file, direction=chosen)
    if model.scale != 1:
        raise UserError(f"{name} upscales by {model.scale}; use sr upscale, or give a model that keeps the size")
    return model, chosen


def trained_direction(file: Path) -> Direction:
    """The direction in the options that sr stores with a model; a_to_b for other files."""
    try:
        stored = json.loads(load_weights(file)[1]["options"])["data"]["direction"]
    except (KeyError, TypeError, ValueError):
        return "a_to_b"
    return "b_to_a" if stored == "b_to_a" else "a_to_b"


# ---- images --------------------------------------------------------------------------------------------------------


def half(image: ImageData, direction: Direction) -> ImageData:
    """The input in a file that holds a and b side by side: its left half for a_to_b, its right half for b_to_a."""
    height, width = image.rgb.shape[-2:]
    if width % 2:
        raise UserError(f"{width}x{height} cannot be split into two equal halves; give images of even width")
    part = slice(0, width // 2) if direction == "a_to_b" else slice(width // 2, width)
    alpha, bands = (None if planes is None else planes[..., part] for planes in (image.alpha, image.bands))
    return dataclasses.replace(image, rgb=image.rgb[..., part], alpha=alpha, bands=bands)


def resized(image: ImageData, size: int) -> ImageData:
    """Resize to size x size by Pillow's bicubic, as `sr.data.source.resized`, without rounding to 8 bit."""

    def plane(values: Tensor) -> Tensor:
        small = Image.fromarray(values.numpy()).resize((size, size), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(small)).clamp(0, 1)

    def planes(rgb: Tensor) -> Tensor:
        return torch.stack([plane(values) for values in rgb])

    alpha, bands = (None if values is None else planes(values) for values in (image.alpha, image.bands))
    return dataclasses.replace(image, rgb=planes(image.rgb), alpha=alpha, bands=bands)


def redraw(
    image: ImageData,
    model: Model,
    *,
    tile: int = 0,
    overlap: int = OVERLAP,
    device: torch.device | str = "cpu",
    on_tiles: OnTiles | None = None,
) -> ImageData:
    """Translate one image. The output has its size and depth, and the channels of the model.

    Alpha is kept unless the model returns one. A model of Lab gets the lightness; its colours are joined with the
    lightness at full precision. tile: 0 runs the network on the whole image, which a norm over the image requires.
    """
    if image.alpha is not None and model.channels in (1, 3):
        image = dataclasses.replace(image, rgb=bleed_colors(image.rgb, image.alpha))
    given = color.lightness(image.rgb) if model.colours == "lab" else planes_of(image, model.channels)
    made = through(model, given, tile=tile, overlap=overlap, device=device, on_tiles=on_tiles)
    if model.colours == "lab":
        made = color.colorized(given, made)
    return with_planes(image, made)


def translate(
    inputs: Sequence[Path],
    output: Path,
    model: Model,
    *,
    side: Direction | None = None,
    size: int | None = None,
    tile: int = 0,
    overlap: int = OVERLAP,
    device: torch.device | str = "cpu",
    **files: Any,
) -> ConversionReport:
    """Translate files and folder trees into `output`.

    Args:
        side: the files hold a and b side by side, and the input is the half of this direction.
        size: resize the input to size x size first, as the published tests of pix2pix do; None keeps its size.
        files: see `sr.inference.folders.convert.convert`.
    """
    check_overlap(tile, overlap)
    model.net.to(device)
    settings: dict[str, Any] = {"verb": "translate", "model": fingerprint(model.net), "name": model.name}
    settings |= {"colours": model.colours, "test_time": getattr(model.net, "test_time", None)}
    settings |= {"side": side, "size": size, "tile": tile, "overlap": overlap if tile else None}

    def work(image: ImageData, on_tiles: OnTiles) -> ImageData:
        image = image if side is None else half(image, side)
        image = image if size is None else resized(image, size)
        return redraw(image, model, tile=tile, overlap=overlap, device=device, on_tiles=on_tiles)

    return convert(inputs, output, work, title=model.name, settings=settings, bands=model.channels, **files)
