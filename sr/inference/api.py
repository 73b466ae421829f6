"""The Python interface: `sr.load` returns a model that maps an image to an image, `sr.upscale` processes files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sr.images import ImageData
from sr.inference.device import pick_device
from sr.inference.folders.convert import ConversionReport
from sr.inference.upscale import Upscaler, pick_model
from sr.inference.upscale import upscale as upscale_files

StrPath = str | os.PathLike[str]
AnyImage = TypeVar("AnyImage", Image.Image, np.ndarray, Tensor)


class ImageModel:
    """An upscaling model as a function: `model(image)` returns the upscaled image in the type of the input.

    Attributes:
        scale: the factor of the network.
        name: the architecture and its sizes.
    """

    def __init__(self, upscaler: Upscaler) -> None:
        self._upscaler = upscaler
        self.scale, self.name = upscaler.model.scale, upscaler.model.name

    def __call__(self, image: AnyImage) -> AnyImage:
        """Upscale one image, in tiles where it is large.

        Args:
            image: a PIL image; a uint8 or uint16 array [h, w] or [h, w, c] with c = 1 to 4 (grey, grey and alpha, RGB,
                RGBA); or a float tensor [c, h, w] or [B, c, h, w] in 0..1 with c = 1 or 3, on any device.

        Raises:
            TypeError: for any other type.
            ValueError: for any other shape or dtype.
        """
        if isinstance(image, Image.Image):
            return self._pil(image)
        if isinstance(image, np.ndarray):
            return self._array(image)
        if isinstance(image, Tensor):
            return self._tensor(image)
        raise TypeError(f"{type(image).__name__} is not an image; pass a PIL image, a NumPy array or a tensor")

    def _pil(self, image: Image.Image) -> Image.Image:
        if image.mode in ("I", "F"):  # Pillow would clip these to 8 bits
            raise ValueError(f"mode {image.mode} has no known white; pass a uint8 or uint16 array")
        if image.mode not in ("L", "LA", "RGB", "RGBA") and not image.mode.startswith("I;16"):
            transparent = "transparency" in image.info or image.mode in ("PA", "La", "RGBa")
            image = image.convert("RGBA" if transparent else "RGB")
        pixels = np.asarray(image)
        return Image.fromarray(self._array(pixels.astype(pixels.dtype.newbyteorder("="))))

    def _array(self, image: np.ndarray) -> np.ndarray:
        depths = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}
        if image.dtype not in depths or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] > 4):
            raise ValueError(
                f"{image.dtype} {list(image.shape)} is not an image; pass uint8 or uint16 [h, w(, 1 to 4)]"
            )
        most = depths[image.dtype]
        planes = torch.from_numpy(np.atleast_3d(image).astype(np.float32) / most).permute(2, 0, 1)
        gray, with_alpha = len(planes) <= 2, len(planes) in (2, 4)
        colors = planes[:-1] if with_alpha else planes
        data = ImageData(colors.expand(3, -1, -1), alpha=planes[-1:] if with_alpha else None, gray=gray)
        made = self._upscaler([data])[0]
        rows = [made.rgb.mean(0, keepdim=True) if gray else made.rgb, *([made.alpha] if made.alpha is not None else [])]
        pixels = (torch.cat(rows).permute(1, 2, 0) * most).round().clamp(0, most).numpy().astype(image.dtype)
        return pixels[..., 0] if image.ndim == 2 else pixels

    def _tensor(self, image: Tensor) -> Tensor:
        if not image.is_floating_point() or image.ndim not in (3, 4) or image.shape[-3] not in (1, 3):
            raise ValueError(
                f"{image.dtype} {list(image.shape)} is not an image; pass floats [c, h, w] or [B, c, h, w]"
            )
        batch = image.reshape(-1, *image.shape[-3:]).float().cpu()
        made = self._upscaler([ImageData(each.expand(3, -1, -1), gray=len(each) == 1) for each in batch])
        stacked = torch.stack([each.rgb[: image.shape[-3]] for each in made])
        return stacked.reshape(*image.shape[:-3], *stacked.shape[1:]).to(image.device, image.dtype)


def load(
    model: StrPath | None = None, *, scale: int | None = None, device: torch.device | str | None = None, **how: Any
) -> ImageModel:
    """Open a model as a function from image to image.

    Args:
        model: a file of `sr`, Real-ESRGAN, ESRGAN, or any that spandrel opens; a name as `sr models` lists them;
            "hf:user/repo[/file]"; or "bicubic" with `scale`. By default the model that ships with `sr`.
        scale: the scale to expect.
        device: "cuda", "cpu", ...; by default a GPU if there is one.
        how: `outscale`, `alpha`, `tile`, `overlap`, `precision`, `tta`, see `sr.inference.upscale.Upscaler`.

    Example:
        >>> import sr
        >>> from PIL import Image
        >>> model = sr.load("net_g_best.safetensors")
        >>> model.scale
        2
        >>> model(Image.open("photo.png")).save("large.png")

    Raises:
        sr.core.errors.UserError: the model is unknown, cannot be downloaded, or does not upscale images.
    """
    how.setdefault("precision", "auto")
    return ImageModel(Upscaler(pick_model(_text(model), scale=scale), device=device or pick_device(), **how))


def upscale(
    paths: StrPath | Sequence[StrPath],
    output: StrPath,
    *,
    model: StrPath | None = None,
    scale: int | None = None,
    device: torch.device | str | None = None,
    **how: Any,
) -> ConversionReport:
    """Upscale files and folders into `output`, as `sr upscale` does. Finished files are skipped.

    Args:
        paths: images, videos, tars or folders.
        output: a folder, or a file for one image.
        model, scale, device: see `load`.
        how: see `sr.inference.upscale.upscale`.
    """
    many = [paths] if isinstance(paths, str | os.PathLike) else paths
    picked = pick_model(_text(model), scale=scale)
    return upscale_files(list(map(Path, many)), Path(output), picked, device=device or pick_device(), **how)


def _text(model: StrPath | None) -> str | None:
    return None if model is None else os.fspath(model)
