"""Images of different sizes, one by one or all at once, whichever the device does faster."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sr.degrade.draws import upload

AT_ONCE = 16  # images; bounds the memory of a canvas


def each(function: Callable[..., Tensor], images: list[Tensor], *params: Tensor | list[Tensor]) -> list[Tensor]:
    """function([n, c, H, W], *[n, ...]) -> [n, c', H, W] for images [c, h, w] and their rows of `params`.

    On a CPU one by one, which keeps an image in the cache. Elsewhere up to AT_ONCE, each in the upper left corner of
    a black canvas, because there a launch costs more than its work. params: more images of the same sides, or a
    tensor with a row for each, which may lie on the host.
    """
    made: list[Tensor] = []
    for rows in _groups(images):
        group = images[rows]
        device = group[0].device
        given = (packed(p[rows]) if isinstance(p, list) else upload(p[rows], device) for p in params)
        out = function(packed(group), *given)
        made += [padded[:, : image.shape[-2], : image.shape[-1]] for padded, image in zip(out, group, strict=True)]
    return made


def by_size(function: Callable[[Tensor], Tensor], images: list[Tensor]) -> list[Tensor]:
    """function([n, c, h, w]) -> the same shape, for images that must not be filled up: only equals are stacked."""
    if together(images[0].device) and len({image.shape for image in images}) == 1:
        return each(function, images)
    return [function(image[None])[0] for image in images]


def packed(images: list[Tensor]) -> Tensor:
    """[n, c, H, W] of the largest height and width; what is not covered is 0."""
    if len(images) == 1:
        return images[0][None]
    sides = {image.shape[-2:] for image in images}
    if len(sides) == 1:
        return torch.stack(images)
    height, width = (max(lengths) for lengths in zip(*sides, strict=True))
    canvas = images[0].new_zeros(len(images), images[0].shape[0], height, width)
    for place, image in zip(canvas, images, strict=True):
        place[:, : image.shape[-2], : image.shape[-1]] = image
    return canvas


def together(device: torch.device) -> bool:
    """Whether the device is an accelerator, where few launches count and asking it anything would make it wait."""
    return device.type != "cpu"


def _groups(images: list[Tensor]) -> Iterator[slice]:
    size = AT_ONCE if together(images[0].device) else 1
    return (slice(start, start + size) for start in range(0, len(images), size))
