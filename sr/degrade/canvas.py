"""Process images of different sizes one by one (CPU) or all together in one padded tensor (GPU)."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from sr.degrade.draws import upload

BATCH_SIZE = 64  # images; bounds the memory of a padded batch
MULTIPLE = 16  # sides of padded tensors where they can be chosen; JPEG needs it
Size = tuple[int, int]


class Packed(list[Tensor]):
    """Images [c, h, w] of different sizes as views of one tensor, so that one kernel processes all of them.

    whole: [n, c, H, W]. clean: it is zero outside of the images, where it otherwise holds any finite values.
    """

    def __init__(self, whole: Tensor, sizes: Sequence[Size], *, clean: bool = False) -> None:
        full = tuple(whole.shape[-2:])
        super().__init__(
            image if size == full else image[:, : size[0], : size[1]]
            for image, size in zip(whole.unbind(), sizes, strict=True)
        )
        self.whole, self.sizes = whole, list(sizes)
        self.clean = clean or all(size == full for size in sizes)

    def like(self, whole: Tensor) -> "Packed":
        """Return images of the same sizes, with other values."""
        made = Packed(whole, self.sizes)
        if "inside" in vars(self) and whole.shape[-2:] == self.whole.shape[-2:]:
            made.inside = self.inside
        return made

    @cached_property
    def inside(self) -> Tensor:
        """Which pixels of `whole` belong to an image, bool [n, 1, H, W]."""
        rows, columns = (
            upload(torch.arange(length) < torch.tensor([size[axis] for size in self.sizes])[:, None], self.whole.device)
            for axis, length in enumerate(self.whole.shape[-2:])
        )
        return rows[:, None, :, None] & columns[:, None, None, :]

    def zero_padded(self) -> Tensor:
        """Return `whole`, with zeros outside of the images."""
        if not self.clean:
            self.whole, self.clean = self.whole * self.inside, True
        return self.whole

    def gather(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the pixels at rows [n, H'] and columns [n, W'] (int64, on the host) of each image, [n, c, H', W']."""
        split = [rows.shape[1], columns.shape[1]]
        row, column = upload(torch.cat([rows, columns], 1), self.whole.device).split(split, 1)
        _, channels, _, width = self.whole.shape
        part = self.whole.gather(2, row[:, None, :, None].expand(-1, channels, -1, width))  # no index is materialized
        return part.gather(3, column[:, None, None, :].expand(-1, channels, split[0], -1))


def pack(images: list[Tensor], sides: Size | None = None) -> Packed:
    """Return images as views of one tensor, of these sides if given; they are copied unless they are such views."""
    if isinstance(images, Packed) and sides in (None, _size(images.whole)):
        return images
    sizes = [_size(image) for image in images]
    whole = _padded(images, sides) if sides and set(sizes) != {sides} else pad_and_stack(images)
    return Packed(whole, sizes, clean=True)


def subset(images: list[Tensor], rows: list[int]) -> list[Tensor]:
    """Return images[row] for these ascending rows."""
    if not isinstance(images, Packed):
        return [images[row] for row in rows]
    if len(rows) == len(images):
        return images
    sizes = [images.sizes[row] for row in rows]
    height, width = (min(up(max(lengths)), most) for lengths, most in _axes(sizes, images.whole))
    part = images.whole[..., :height, :width].index_select(0, upload(torch.tensor(rows), images.whole.device))
    return Packed(part, sizes, clean=images.clean)


def replaced(images: list[Tensor], rows: list[int], changed: list[Tensor]) -> list[Tensor]:
    """Return the images with `changed` in the places of these ascending rows."""
    if len(rows) == len(images):
        return changed
    new = dict(zip(rows, changed, strict=True))
    if not isinstance(images, Packed):
        return [new.get(row, image) for row, image in enumerate(images)]
    part, old = pack(changed).whole, images.whole
    sizes = [_size(new.get(row, image)) for row, image in enumerate(images)]
    index = upload(torch.tensor(rows), old.device)
    if part.shape[-2:] == old.shape[-2:]:
        return Packed(old.index_copy(0, index, part), sizes)
    whole = old.new_zeros(*old.shape[:2], *(up(max(lengths)) for lengths in zip(*sizes, strict=True)))
    height, width = (min(pair) for pair in zip(whole.shape[-2:], old.shape[-2:], strict=True))
    whole[..., :height, :width] = old[..., :height, :width]
    height, width = (min(pair) for pair in zip(whole.shape[-2:], part.shape[-2:], strict=True))
    whole[..., :height, :width].index_copy_(0, index, part[..., :height, :width])
    return Packed(whole, sizes)


def each(function: Callable[..., Tensor], images: list[Tensor], *params: Tensor | list[Tensor]) -> list[Tensor]:
    """Apply function([n, c, H, W], *[n, ...]) -> [n, c', H, W] to images [c, h, w] and their rows of `params`.

    On a CPU, images are processed one by one, which keeps each in the cache. On a GPU, where a kernel launch costs more
    than its work, all are processed together, padded with zeros at the right and bottom.

    Args:
        params: further images of the same sizes, or tensors with one row per image, which may be on the host.
    """
    device = images[0].device
    if is_accelerator(device):
        padded = pack(images)
        sides = _size(padded.whole)
        given = (pack(p, sides).zero_padded() if isinstance(p, list) else upload(p, device) for p in params)
        return padded.like(function(padded.zero_padded(), *given))
    return [
        function(image[None], *(p[row][None] for p in params))[0, :, : image.shape[-2], : image.shape[-1]]
        for row, image in enumerate(images)
    ]


def unstack(whole: Tensor) -> list[Tensor]:
    """Return the images of [n, c, h, w]."""
    return Packed(whole, [_size(whole)] * len(whole)) if is_accelerator(whole.device) else list(whole)


def crop(images: list[Tensor], corners: list[list[int]], side: int) -> Tensor:
    """Cut a square at (top, left) from each image: [n, c, side, side]."""
    if not isinstance(images, Packed):
        pairs = zip(images, corners, strict=True)
        return torch.stack([image[:, top : top + side, left : left + side] for image, (top, left) in pairs])
    tops, lefts = torch.tensor(corners)[:, None].expand(-1, side, -1).add(torch.arange(side)[:, None]).unbind(-1)
    return images.gather(tops, lefts)


def spread(fields: list[Tensor], images: Packed) -> Tensor:
    """Copy contiguous fields [c or 1, h, w] of each image to [n, c, H, W]; outside of the images, values repeat."""
    device, (channels, height, width) = images.whole.device, images.whole.shape[1:]
    sizes = torch.tensor(images.sizes)
    area, before = sizes.prod(1), torch.tensor([0, *(field.numel() for field in fields[:-1])]).cumsum(0)
    used = torch.tensor([len(field) > 1 for field in fields])
    start = before[:, None] + torch.arange(channels) * (area * used)[:, None]
    row = torch.minimum(torch.arange(height), sizes[:, :1] - 1) * sizes[:, 1:]
    column = torch.minimum(torch.arange(width), sizes[:, 1:] - 1)
    start, row, column = upload(torch.cat([start, row, column], 1), device).split([channels, height, width], 1)
    flat = torch.cat([field.flatten() for field in fields])
    return flat[start[:, :, None, None] + (row[:, None, :, None] + column[:, None, None, :])]


def pad_and_stack(images: list[Tensor]) -> Tensor:
    """Stack images as [n, c, H, W] of the largest height and width, padded with zeros."""
    if isinstance(images, Packed) and set(images.sizes) == {tuple(images.whole.shape[-2:])}:
        return images.whole
    if len(images) == 1:
        return images[0][None]
    sides = {image.shape[-2:] for image in images}
    if len(sides) == 1:
        return torch.stack(images)
    height, width = (up(max(lengths)) for lengths in zip(*sides, strict=True))
    return _padded(images, (height, width))


def _padded(images: list[Tensor], sides: Size) -> Tensor:
    canvas = images[0].new_zeros(len(images), images[0].shape[0], *sides)
    for place, image in zip(canvas, images, strict=True):
        place[:, : image.shape[-2], : image.shape[-1]] = image
    return canvas


def is_accelerator(device: torch.device) -> bool:
    """Whether the device is a GPU: few launches matter there, and reading a value from it is a synchronization."""
    return device.type != "cpu"


def _size(image: Tensor) -> Size:
    height, width = image.shape[-2:]
    return height, width


def up(side: int) -> int:
    """Round a side up to a multiple of MULTIPLE."""
    return side + -side % MULTIPLE


def _axes(sizes: list[Size], whole: Tensor) -> Iterator[tuple[tuple[int, ...], int]]:
    return zip(zip(*sizes, strict=True), whole.shape[-2:], strict=True)
