"""How far a network looks: measured with its own weights, so that tiles overlap by no less and not by much more."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BOUND = 0.25 / 255  # of an output value, a quarter of what tiled and whole may differ by
SIDES = (16, 32, 64)  # input pixels: how far is looked for an effect, one after the other


class Reach(NamedTuple):
    """pixels: how far from a cut (in input pixels) the output still changes by more than BOUND; None: the whole image,
    or more than was looked at. beyond: the largest change farther off than that."""

    pixels: int | None
    beyond: float


@torch.no_grad()
def measured_reach(
    net: Callable[[Tensor], Tensor],
    *,
    channels: int,
    scale: int,
    multiple: int = 1,
    pools: bool = False,
    device: torch.device | str = "cpu",
) -> Reach:
    """What an image loses near the edge of a tile: the same pixels with and without their surroundings, compared.

    The nominal receptive field of a deep network is hundreds of pixels, of which trained weights use a few.
    Costs the network on 3,328 pixels, on 13,312 more where it reaches farther than 16, on 53,248 more beyond 32.
    pools: whether it takes means over the whole image (see `takes_means`): then four images are tried, dark and
    bright ones among them, because a gate that one mean leaves shut may open at another. A network that takes only
    sides of more than 64 pixels counts as one that sees the whole, and is not run.
    """
    found = Reach(None, torch.nan)
    for side in SIDES if multiple <= SIDES[-1] else ():
        side = -(-side // multiple) * multiple
        image = probe(3 * side, channels).to(device)
        if pools:
            image = torch.cat([image, 0.2 * image, 1 - 0.2 * image, image.flip(2, 3)])
        whole, part = net(image), net(image[..., side:, side:])
        found = _compared(whole[..., side * scale :, side * scale :].float(), part.float(), side, scale)
        if found.pixels is not None:
            break
    return found


def takes_means(net: nn.Module) -> bool:
    """Whether it has layers that look at all of an image at once, by kind."""
    kinds = nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm
    return any(isinstance(module, kinds) for module in net.modules())


def _compared(whole: Tensor, part: Tensor, side: int, scale: int) -> Reach:
    """part: what was made of the lower right of the image alone, 2 * side input pixels wide and high."""
    change = F.max_pool2d((whole - part).abs().amax((0, 1), keepdim=True), scale)[0, 0].cpu()
    steps = torch.arange(2 * side)
    distance = torch.minimum(steps[:, None], steps)
    touched = distance[~(change <= BOUND)]  # numbers that are not finite count as changed
    pixels = int(touched.max()) + 1 if len(touched) else 0
    if pixels <= side:
        return Reach(pixels, change[distance >= pixels].max().item())
    return Reach(None, change[distance >= side].max().item())


def probe(side: int, channels: int) -> Tensor:
    """An image with something of everything, always the same: float32 [1, channels, side, side] in 0..1.

    Noise of all sizes (as in photographs, the coarser the stronger), edges in all directions, flat regions at the ends
    of the range, and grain. From the upper left to the lower right it grows dark and flat, so that its parts have
    other means than the whole, as those of photographs have.
    """
    draws = torch.Generator().manual_seed(0)
    image = torch.full((1, channels, side, side), 0.5)
    size = 4
    while size < 2 * side:
        coarse = torch.rand(1, channels, -(-2 * side // size) + 2, -(-2 * side // size) + 2, generator=draws) - 0.5
        fine = F.interpolate(coarse, scale_factor=size / 2, mode="bicubic", align_corners=False)
        image += fine[..., :side, :side] * (size / side) ** 0.5
        size *= 2
    blobs = F.interpolate(torch.rand(1, 1, 8, 8, generator=draws), size=(side, side), mode="bicubic")
    image = torch.where(blobs > 0.65, 1 - 0.7 * image, image)
    image = torch.where((blobs > 0.45) & (blobs < 0.5), (blobs > 0.47).float(), image)
    steps = torch.linspace(0, 1, side)
    shade = (steps[:, None] + steps) / 2
    image = 0.5 + (image - 0.5) * (1.2 - 0.8 * shade) + 0.4 * (0.5 - shade)
    return (image + 0.02 * torch.randn(image.shape, generator=draws)).clamp(0, 1)
