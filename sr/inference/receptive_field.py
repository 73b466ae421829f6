"""Measure the effective receptive field of a network with its own weights, which gives the overlap of tiles."""

import json
import math
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr.core.atomic import replacing
from sr.core.cache_folder import cache_folder

BOUND = 0.25 / 255  # of an output value: a quarter of what tiles may change
SIDES = (32, 64, 160, 256)  # input pixels: distances that are tried one after the other
FEW_ROWS, ROWS = 24, 96  # input pixels: length of the cut border, for all probes and for the worst of them
BEHIND = 48  # input pixels on the other side of the cut, at most; those farther away have no effect at the field's end
VERSION = 2  # of the measurement: cached results of other versions are measured again


class ReceptiveField(NamedTuple):
    """How far the output depends on the input.

    pixels: the distance from a cut, in input pixels, up to which the output changes by more than BOUND; None: more
    than was tried, or the whole image. beyond: the largest change at a larger distance.
    """

    pixels: int | None
    beyond: float


@torch.no_grad()
def measure_field(
    net: Callable[[Tensor], Tensor],
    *,
    channels: int,
    scale: int,
    multiple: int = 1,
    pools: bool = False,
    device: torch.device | str = "cpu",
) -> ReceptiveField:
    """Compare the output for test images with and without the pixels beyond a cut; the largest distance counts.

    The nominal receptive field of a deep network is hundreds of pixels, of which trained weights use a part. How much
    depends on the image: RealESRGAN_x4plus uses 45 pixels on photographs and 116 on noisy cloth (see `probes`).
    Distances are tried from short to long, and the first probe that exceeds one ends the attempt.

    All probes are tried with a short cut, which shows about a tenth less, and the worst of them with a long one.

    pools: whether the network averages over the whole image (see `takes_means`). Then darker and brighter versions are
    tried too, because a gate that stays closed at one mean may open at another, and the long distances are not.
    A network whose sides must be multiples of more than 64 pixels counts as one that depends on the whole image, and
    is not run. Cost for a distance of 160: the network on 90,000 pixels.
    """
    found = ReceptiveField(None, torch.nan)
    sides = SIDES[:2] if pools else SIDES
    for side in sides if multiple <= 64 else ():
        side = -(-side // multiple) * multiple

        def field(image: Tensor, side: int = side) -> ReceptiveField:
            image = image.to(device)
            image = torch.cat([image, 0.2 * image, 1 - 0.2 * image, image.flip(2, 3)]) if pools else image
            return _beyond_cut(net, image, min(side, -(-BEHIND // multiple) * multiple), side, scale)

        found = _worst(field, side, channels=channels, multiple=multiple)
        if found.pixels is not None and (4 * found.pixels <= 3 * side or side >= SIDES[-1]):
            break  # near the largest distance that an attempt sees, its images are too small for the whole effect
    return found


def _worst(field: Callable[[Tensor], ReceptiveField], side: int, *, channels: int, multiple: int) -> ReceptiveField:
    """The largest field of all probes, up to `side` pixels from the cut."""
    few, rows, columns = (-(-n // multiple) * multiple for n in (FEW_ROWS, ROWS, min(side, BEHIND) + side + side // 4))
    worst, most = None, ReceptiveField(-1, 0.0)
    for image in probes(rows, columns, channels):
        found = field(image[..., :few, :])
        if found.pixels is None:
            return found
        if found.pixels > (most.pixels or 0) or worst is None:
            worst, most = image, found
    assert worst is not None
    found = field(worst)
    return found if found.pixels is None or found.pixels > (most.pixels or 0) else most


def _beyond_cut(net: Callable[[Tensor], Tensor], image: Tensor, cut: int, side: int, scale: int) -> ReceptiveField:
    """Compare the output for an image with that for its part beyond `cut` columns, `side` pixels of which count."""
    whole, part = net(image)[..., cut * scale :].float(), net(image[..., cut:]).float()
    change = F.max_pool1d((whole - part).abs().amax((0, 1, 2))[None], scale)[0].cpu()
    touched = torch.nonzero(~(change <= BOUND))  # values that are not finite count as changed
    pixels = int(touched.max()) + 1 if len(touched) else 0
    if pixels > side:
        return ReceptiveField(None, change[side:].max().item())
    return ReceptiveField(pixels, change[pixels:].max().item())


def takes_means(net: nn.Module) -> bool:
    """Whether a layer of the network depends on all pixels of an image, by its type."""
    kinds = nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm
    return any(isinstance(module, kinds) for module in net.modules())


# ---- test images -----------------------------------------------------------------------------------------------------


def probes(height: int, width: int, channels: int) -> list[Tensor]:
    """Test images with long-range effects on published networks, always the same: float32 [1, channels, h, w], 0..1.

    Noisy cloth, moire, smooth colours in the blocks of a strong JPEG compression, edges, and `probe`.
    """
    draws = torch.Generator().manual_seed(1)
    y, x = torch.meshgrid(torch.arange(height) * 1.0, torch.arange(width) * 1.0, indexing="ij")
    tints = torch.linspace(0.8, 1.2, channels).view(1, -1, 1, 1) if channels > 1 else torch.ones(1, 1, 1, 1)
    noise = torch.randn(1, channels, height, width, generator=draws)
    cloth = 0.5 + 0.08 * (x / 2.2).sin() * (y / 3.1).sin() + 0.03 * noise
    rings = ((x - 0.3 * width) ** 2 + (y - 0.4 * height) ** 2) / 37
    others = ((x + 0.1 * width) ** 2 + (y - 0.7 * height) ** 2) / 61
    moire = 0.5 + 0.4 * torch.sin(rings * tints) * 0.5 + 0.2 * torch.sin(others)
    u, v = x / max(width, height), y / max(width, height)
    smooth = 0.25 + 0.5 * u * tints**2 + 0.12 * (6 * v * tints**3).sin() + 0.12 * (5 * u / tints**3).cos()
    edges = torch.full((1, channels, height, width), 0.5)
    for angle, offset in torch.rand(24, 2, generator=draws).tolist():
        line = (x - width / 2) * math.cos(math.pi * angle) + (y - height / 2) * math.sin(math.pi * angle)
        colour = torch.rand(1, channels, 1, 1, generator=draws)
        edges = torch.where(line > (offset - 0.5) * max(width, height), edges, (edges + colour) / 2)
    square = probe(max(height, width), channels)[..., :height, :width]
    return [each.clamp(0, 1).contiguous() for each in (cloth, moire, _compressed(smooth), edges, square)]


def _compressed(image: Tensor) -> Tensor:
    """The image with the blocks of JPEG quality 12: brightness in blocks of 8 pixels, colours in blocks of 16."""
    brightness = image.mean(1, keepdim=True)
    colours = F.avg_pool2d(image - brightness, 2, ceil_mode=True)
    colours = F.interpolate(_quantized(colours, 1.4), scale_factor=2)[..., : image.shape[-2], : image.shape[-1]]
    return _quantized(brightness, 1.0) + colours


def _quantized(image: Tensor, coarseness: float) -> Tensor:
    """JPEG's 8 x 8 DCT of each channel with rounded coefficients; coarseness 1: about as brightness at quality 12."""
    height, width = image.shape[-2:]
    image = F.pad(image, (0, -width % 8, 0, -height % 8), mode="replicate")
    places = torch.arange(8.0)
    basis = torch.cos(math.pi * (places + 0.5) * places[:, None] / 8) / 2
    basis[0] /= 2**0.5
    steps = (12 + 7 * (places + places[:, None])) * 4.2 * coarseness / 255
    blocks = image.unfold(2, 8, 8).unfold(3, 8, 8)
    blocks = basis.T @ ((basis @ blocks @ basis.T / steps).round() * steps) @ basis
    return blocks.permute(0, 1, 2, 4, 3, 5).reshape(image.shape)[..., :height, :width]


def probe(side: int, channels: int) -> Tensor:
    """A test image with all kinds of content, always the same: float32 [1, channels, side, side] in 0..1.

    Noise of all sizes (as in photographs, stronger where coarser), edges in all directions, flat regions at the ends
    of the range, and grain. It grows dark and flat from the upper left to the lower right, so that the mean of a part
    differs from that of the whole, as in photographs.
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


# ---- cache -----------------------------------------------------------------------------------------------------------


def cached_field(key: str, measure: Callable[[], ReceptiveField]) -> ReceptiveField:
    """The result of an earlier measurement in the user's cache folder, else `measure()`, which is then stored there.

    key: a fingerprint of the weights and of all settings that change the result. An unreadable entry is measured
    again; a cache that cannot be written is not used.
    """
    name = f"{key}-{VERSION}.json"
    try:
        known = json.loads((cache_folder("receptive_fields") / name).read_text(encoding="utf-8"))
        pixels, beyond = known["pixels"], float(known["beyond"])
        if pixels is None or (type(pixels) is int and 0 <= pixels <= max(SIDES)):
            return ReceptiveField(pixels, beyond)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError):
        pass
    found = measure()
    with suppress(OSError, RuntimeError), replacing(cache_folder("receptive_fields") / name) as scratch:
        scratch.write_text(json.dumps(found._asdict()), encoding="utf-8")
    return found
