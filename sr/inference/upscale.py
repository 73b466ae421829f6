"""Images, files or folder trees, through a trained generator."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sr.core.errors import UserError
from sr.images import ImageData, bicubic
from sr.inference.folders.convert import ConversionReport, convert, fingerprint
from sr.inference.precision import Precision
from sr.inference.predictor import OnTiles, Predictor
from sr.nets.io.interpolate import blend
from sr.nets.io.load import Model, open_model

Alpha = Literal["bicubic", "net"]
MOST = 16  # times larger, at most; beyond that a slip of the finger would fill the memory


# ---- models ----------------------------------------------------------------------------------------------------------


class Bicubic(nn.Module):
    """MATLAB's bicubic upscaling in the place of a generator: what every generator has to beat."""

    def __init__(self, *, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return bicubic.resize(x, scale=self.scale)


def pick_model(name: str, *, scale: int | None = None) -> Model:
    """The model in a file, or the word `bicubic`. Raises UserError when it is not of `scale`, or not of RGB or grey."""
    if name == "bicubic":
        if scale is None:
            raise UserError("bicubic has no scale of its own; say which with --scale 4")
        return Model(Bicubic(scale=scale), scale, 1, f"bicubic x{scale}")
    return for_images(open_model(name, expect_scale=scale), name)


def mix_models(parts: Sequence[str], *, scale: int | None = None) -> Model:
    """The model between several (`sr.nets.io.interpolate`). Raises UserError as `pick_model`."""
    return for_images(blend(parts, expect_scale=scale), " ".join(parts))


def for_images(model: Model, name: str) -> Model:
    """The same model. Raises UserError when it is not for RGB or grey."""
    if (model.channels, model.out_channels) not in ((3, 3), (1, 1)):
        kind = f"takes images of {model.channels} channels and makes {model.out_channels}"
        raise UserError(f"{name} {kind}; give a model for RGB or grey, or use sr translate")
    return model


# ---- images --------------------------------------------------------------------------------------------------------


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

    Raises UserError where the net returns numbers that are no image.
    """
    run = Predictor(model, tile=tile, overlap=overlap, device=device, precision="tf32")
    return run([image], on_tiles)[0]


class Upscaler:
    """Images -> the same, larger, of the same kind: gray stays gray, 16 bit stays 16 bit, alpha is kept.

    outscale: how many times larger, any number; what the net makes is then resampled by bicubic with the kernel
    stretched over all pixels that go into one (model.scale: nothing is resampled). The network sees the colours under
    transparent pixels too. alpha: upscaled by bicubic, or by the net as a grey image. A net for grey upscales red,
    green and blue one by one. how: see `Predictor`.
    """

    def __init__(self, model: Model, *, outscale: float | None = None, alpha: Alpha = "bicubic", **how: Any) -> None:
        if outscale is not None and not 0 < outscale <= MOST:
            raise UserError(f"--outscale {outscale:g} is not above 0 and at most {MOST}; give a number like 2.5")
        self.outscale, self.alpha = outscale or float(model.scale), alpha
        self.model, self._run = model, Predictor(model, **how)

    def __call__(self, images: Sequence[ImageData], on_tiles: OnTiles | None = None) -> list[ImageData]:
        """All at once, so that tiles of equal size share batches."""
        planes = [self._planes(image) for image in images]
        made = iter(self._run([plane for each in planes for plane in each], on_tiles))
        parted = [[next(made) for _ in each] for each in planes]
        return [self._joined(image, each) for image, each in zip(images, parted, strict=True)]

    def _planes(self, image: ImageData) -> list[Tensor]:
        """What the net is to see of an image: [channels, h, w] each."""
        channels = self.model.channels
        colours = image.rgb[:1] if channels == 1 and image.gray else image.rgb
        if image.alpha is None or self.alpha == "bicubic":
            return list(colours.split(channels))
        return [*colours.split(channels), image.alpha.expand(channels, -1, -1)]

    def _joined(self, image: ImageData, made: list[Tensor]) -> ImageData:
        height, width = (max(round(side * self.outscale), 1) for side in image.rgb.shape[-2:])
        alpha = image.alpha
        if alpha is not None:
            alpha = made.pop().mean(0, keepdim=True) if self.alpha == "net" else alpha
            alpha = _resized(alpha, height, width)
        rgb = _resized(torch.cat(made), height, width)
        return dataclasses.replace(image, rgb=rgb.expand(3, -1, -1), alpha=alpha)


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    if image.shape[-2:] == (height, width):
        return image
    return bicubic.resize(image, size=(height, width)).clamp(0, 1)


def upscale(
    inputs: Sequence[Path],
    output: Path,
    model: Model,
    *,
    outscale: float | None = None,
    alpha: Alpha = "bicubic",
    tile: int | None = None,
    overlap: int | None = None,
    device: torch.device | str = "cpu",
    precision: Precision = "auto",
    tta: bool = False,
    **files: Any,
) -> ConversionReport:
    """Upscale files and folder trees into `output`. files: see `sr.inference.folders.convert.convert`; the rest: see
    `Upscaler`."""
    settings = {"verb": "upscale", "model": fingerprint(model.net), "name": model.name, "outscale": outscale}
    settings |= {"alpha": alpha, "precision": precision, "tta": tta}
    how: dict[str, Any] = {"tile": tile, "overlap": overlap, "device": device, "precision": precision, "tta": tta}
    enlarge = Upscaler(model, outscale=outscale, alpha=alpha, **how)

    def work(image: ImageData, on_tiles: OnTiles) -> ImageData:
        return enlarge([image], on_tiles)[0]

    return convert(inputs, output, work, title=model.name, many=enlarge, settings=settings, **files)
