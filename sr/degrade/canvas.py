"""Process images of different sizes one by one (CPU) or in padded batches (GPU)."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sr.degrade.draws import upload

BATCH_SIZE = 16  # images; bounds the memory of a padded batch


def each(function: Callable[..., Tensor], images: list[Tensor], *params: Tensor | list[Tensor]) -> list[Tensor]:
    """Apply function([n, c, H, W], *[n, ...]) -> [n, c', H, W] to images [c, h, w] and their rows of `params`.

    On a CPU, images are processed one by one, which keeps each in the cache. On a GPU, where a kernel launch costs more
    than its work, up to BATCH_SIZE images are padded with zeros at the right and bottom and processed together.

    Args:
        params: further images of the same sizes, or tensors with one row per image, which may be on the host.
    """
    made: list[Tensor] = []
    for rows in _groups(images):
        group = images[rows]
        device = group[0].device
        given = (pad_and_stack(p[rows]) if isinstance(p, list) else upload(p[rows], device) for p in params)
        out = function(pad_and_stack(group), *given)
        made += [padded[:, : image.shape[-2], : image.shape[-1]] for padded, image in zip(out, group, strict=True)]
    return made


def by_size(function: Callable[[Tensor], Tensor], images: list[Tensor]) -> list[Tensor]:
    """Like `each` for functions that padding would change: only images of equal size are batched."""
    if is_accelerator(images[0].device) and len({image.shape for image in images}) == 1:
        return each(function, images)
    return [function(image[None])[0] for image in images]


def pad_and_stack(images: list[Tensor]) -> Tensor:
    """Stack images as [n, c, H, W] of the largest height and width, padded with zeros."""
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


def is_accelerator(device: torch.device) -> bool:
    """Whether the device is a GPU: few launches matter there, and reading a value from it is a synchronization."""
    return device.type != "cpu"


def _groups(images: list[Tensor]) -> Iterator[slice]:
    size = BATCH_SIZE if is_accelerator(images[0].device) else 1
    return (slice(start, start + size) for start in range(0, len(images), size))
