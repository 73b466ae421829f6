"""Upscale images, files and folder trees with a trained generator."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.core.errors import UserError
from sr.images import ImageData, bicubic
from sr.images.alpha import bleed_colors
from sr.inference.choices import MAX_SCALE
from sr.inference.folders.convert import ConversionReport, convert, fingerprint
from sr.inference.precision import Precision
from sr.inference.predictor import OnTiles, Predictor
from sr.inference.zoo import DEFAULT, locate
from sr.nets.io.interpolate import blend
from sr.nets.io.load import Model, open_model

Alpha = Literal["bicubic", "net"]
_LUMA = 0.299, 0.587, 0.114  # ITU-R BT.601, as `sr.images.with_channels` makes grey of colour


# ---- models ----------------------------------------------------------------------------------------------------------


class Bicubic(nn.Module):
    """MATLAB's bicubic upscaling as a network: the baseline of every generator."""

    def __init__(self, *, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return bicubic.resize(x, scale=self.scale)


def pick_model(name: str | None = None, *, scale: int | None = None, plugins: Sequence[str] = ()) -> Model:
    """Open a model by file or name (`sr.inference.zoo.locate`), or the built-in model `bicubic`; None: the default.

    plugins: see `open_model`.

    Raises:
        UserError: the model is not of `scale`, or its channels are not those of an image (Lab, edge maps).
    """
    if scale is not None and not 1 <= scale <= MAX_SCALE:
        raise UserError(f"--scale {scale} is out of range; give a whole number from 1 to {MAX_SCALE}")
    if name == "bicubic":
        if scale is None:
            raise UserError("bicubic takes any scale; give one, such as --scale 4")
        return Model(Bicubic(scale=scale), scale, 1, f"bicubic x{scale}")
    name = name or DEFAULT
    return for_images(open_model(locate(name), expect_scale=scale, plugins=plugins), name)


def mix_models(parts: Sequence[str], *, scale: int | None = None) -> Model:
    """Interpolate between the weights of models (`sr.nets.io.interpolate`). Raises UserError like `pick_model`."""
    return for_images(blend(parts, expect_scale=scale, locate=locate), " ".join(parts))


def for_images(model: Model, name: str) -> Model:
    """Return `model`. Raises UserError where its channels are not those of an image."""
    if model.colours != "rgb":
        raise UserError(f"{name} is a model of {model.colours}, which keeps the size; use sr translate")
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
    """Run a network on an image: [c, h, w] in 0..1 -> float32 [C, h*scale, w*scale] on the host, clipped to 0..1.

    Raises UserError where the network returns values that are not finite.
    """
    return _predictor(model, tile, overlap, torch.device(device))([image], on_tiles)[0]


@lru_cache(maxsize=1)
def _predictor(model: Model, tile: int, overlap: int, device: torch.device) -> Predictor:
    """The same for all images of a run: it reports once, and remembers which tiles fit the memory."""
    return Predictor(model, tile=tile, overlap=overlap, device=device, precision="tf32")


def planes_of(image: ImageData, channels: int) -> Tensor:
    """[channels, h, w] of an image: grey, grey and alpha, RGB, RGB and alpha, or from 5 on all its bands.

    Grey of RGB is its luma; alpha is 1 where the image has none. Raises UserError for another number of bands.
    """
    if channels > 4:
        if image.bands is None or image.bands.shape[0] != channels:
            raise UserError(f"the model takes images of {channels} channels; give TIFF files of {channels} bands")
        return image.bands
    luma = torch.tensor(_LUMA).view(3, 1, 1)
    colours = image.rgb if channels >= 3 else image.rgb[:1] if image.gray else (image.rgb * luma).sum(0, keepdim=True)
    if channels in (1, 3):
        return colours
    return torch.cat([colours, torch.ones_like(colours[:1]) if image.alpha is None else image.alpha])


def with_planes(image: ImageData, made: Tensor) -> ImageData:
    """The image with `made` [C, h, w] as its channels, in the order of `planes_of`.

    Alpha is kept where `made` has none.
    """
    count = made.shape[0]
    colours, grey = (made[:3], False) if count >= 3 else (made[:1].expand(3, -1, -1), True)
    alpha = made[-1:] if count in (2, 4) else None if count > 4 else image.alpha
    icc = image.icc if grey == image.gray and count <= 4 else None  # a profile of grey does not describe colours
    bands = made if count > 4 else None
    return dataclasses.replace(image, rgb=colours, alpha=alpha, gray=grey, icc=icc, bands=bands)


class Upscaler:
    """Upscale images and keep their kind: grey stays grey, 16 bit stays 16 bit, alpha is kept.

    Transparent pixels first take the colours around them (`sr.images.alpha`). A network for grey upscales red, green
    and blue one by one. A network of other channels takes and returns them in the order of `planes_of`.

    Args:
        outscale: factor of the output size, any number up to MAX_SCALE. The output of the network is resampled by
            bicubic with antialiasing, unless this is the scale of the model.
        alpha: upscale it by bicubic, or by the network as a grey image.
        how: see `Predictor`.
    """

    def __init__(self, model: Model, *, outscale: float | None = None, alpha: Alpha = "bicubic", **how: Any) -> None:
        if outscale is not None and not 0 < outscale <= MAX_SCALE:
            raise UserError(f"--outscale {outscale:g} is out of range; give a number above 0, at most {MAX_SCALE}")
        self.outscale, self.alpha = outscale or float(model.scale), alpha
        self.model, self._run = model, Predictor(model, **how)
        self._colours_alone = (model.channels, model.out_channels) in ((1, 1), (3, 3))

    def __call__(self, images: Sequence[ImageData], on_tiles: OnTiles | None = None) -> list[ImageData]:
        """Upscale several images together, so that tiles of equal size share batches."""
        return self.start(images, on_tiles)()

    def start(
        self, images: Sequence[ImageData], on_tiles: OnTiles | None = None, *, quantize: bool = False
    ) -> Callable[[], list[ImageData]]:
        """Start `__call__`; the function that is returned waits for a GPU. quantize: to uint8 where nothing is lost."""
        planes = [self._planes(image) for image in images]
        quantize = quantize and all(map(self._ends_at_8_bits, images))
        finish = self._run.start([plane for each in planes for plane in each], on_tiles, quantize=quantize)

        def finished() -> list[ImageData]:
            made = iter(finish())
            parted = [[next(made) for _ in each] for each in planes]
            return [self._joined(image, each) for image, each in zip(images, parted, strict=True)]

        return finished

    def _ends_at_8_bits(self, image: ImageData) -> bool:
        """Whether nothing is computed with the output of the network before it is written with 8 bits."""
        mixed = image.gray and self.model.channels > 1
        resized = self.outscale != self.model.scale
        return self._colours_alone and image.bits == 8 and image.alpha is None and not mixed and not resized

    @property
    def way(self) -> str:
        """Device, precision and tiles so far."""
        return self._run.used

    def _planes(self, image: ImageData) -> list[Tensor]:
        """The inputs of the network for an image, [channels, h, w] each."""
        channels = self.model.channels
        if not self._colours_alone:
            return [planes_of(image, channels)]
        colours = image.rgb if image.alpha is None else bleed_colors(image.rgb, image.alpha)
        colours = colours[:1] if channels == 1 and image.gray else colours
        if image.alpha is None or self.alpha == "bicubic":
            return list(colours.split(channels))
        return [*colours.split(channels), image.alpha.expand(channels, -1, -1)]

    def _joined(self, image: ImageData, made: list[Tensor]) -> ImageData:
        height, width = (max(round(side * self.outscale), 1) for side in image.rgb.shape[-2:])
        alpha = image.alpha
        if not self._colours_alone:
            kept = None if alpha is None else keep_extremes(_resized(alpha, height, width), alpha)
            result = with_planes(dataclasses.replace(image, alpha=kept), _resized(made[0], height, width))
            if self.model.channels in (2, 4) and result.alpha is not None:  # the network was given an alpha channel
                result = dataclasses.replace(
                    result, alpha=alpha if alpha is None else keep_extremes(result.alpha, alpha)
                )
            return result
        if alpha is not None:
            upscaled = made.pop().mean(0, keepdim=True) if self.alpha == "net" else alpha
            alpha = keep_extremes(_resized(upscaled, height, width), alpha)
        rgb = _resized(made[0] if len(made) == 1 else torch.cat(made), height, width)
        return dataclasses.replace(image, rgb=rgb.expand(3, -1, -1), alpha=alpha)


def keep_extremes(upscaled: Tensor, alpha: Tensor) -> Tensor:
    """Set `upscaled` to 1 (0) where the 3x3 neighbourhood in `alpha` is fully opaque (transparent).

    A network trained on colours is off by a level or so on uniform areas, which would make opaque images translucent.

    Args:
        upscaled: [1, H, W] in 0..1, made from `alpha`.
        alpha: [1, h, w] in 0..1.
    """
    lowest, highest = -F.max_pool2d(-alpha, 3, 1, 1), F.max_pool2d(alpha, 3, 1, 1)
    masks = torch.cat([lowest == 1, highest == 0])[None].to(upscaled.dtype)
    opaque, clear = F.interpolate(masks, size=upscaled.shape[-2:], mode="nearest-exact")[0].bool().to(upscaled.device)
    return upscaled.masked_fill(opaque, 1).masked_fill(clear, 0)


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
    """Upscale files and folder trees into `output`.

    Args:
        files: see `sr.inference.folders.convert.convert`. All others: see `Upscaler`.
    """
    settings = {"verb": "upscale", "model": fingerprint(model.net), "name": model.name, "outscale": outscale}
    settings |= {"alpha": alpha, "precision": precision, "tta": tta}
    how: dict[str, Any] = {"tile": tile, "overlap": overlap, "device": device, "precision": precision, "tta": tta}
    upscaler = Upscaler(model, outscale=outscale, alpha=alpha, **how)

    def work(image: ImageData, on_tiles: OnTiles) -> ImageData:
        return upscaler([image], on_tiles)[0]

    files |= {"bands": model.channels}

    def begin(images: Sequence[ImageData], on_tiles: OnTiles) -> Callable[[], Sequence[ImageData]]:
        return upscaler.start(images, on_tiles, quantize=True)

    ahead = int(torch.device(device).type == "cuda")
    report = convert(inputs, output, work, title=model.name, begin=begin, ahead=ahead, settings=settings, **files)
    return dataclasses.replace(report, way=upscaler.way)
