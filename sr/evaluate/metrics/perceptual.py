"""LPIPS (Zhang et al. 2018) and DISTS (Ding et al. 2020) as their authors measure, where the weights are at hand."""

import functools
import math
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from sr.evaluate.metrics.protocol import counted_rgb

SMALLEST = 31  # pixels: of less AlexNet's convolutions and poolings leave nothing


def lpips(output: Tensor, target: Tensor, *, border: int) -> Tensor:
    """0 for equal images; output, target: [3, h, w] in 0..1. border: pixels left out on every side.

    With AlexNet, the authors' choice for a metric. nan for images of less than 31 pixels a side.
    """
    return _distance("lpips", output, target, border=border, smallest=SMALLEST)


def dists(output: Tensor, target: Tensor, *, border: int) -> Tensor:
    """0 for equal images, of which the same texture in other places is near; else as `lpips`.

    Of the image at its own size: the authors' example shrinks larger ones to 256 pixels first.
    """
    return _distance("dists", output, target, border=border, smallest=1)


def missing_weights(metric: str) -> str | None:
    """Return the message that names the missing weights and how to get them; metrics never download."""
    from sr.losses.backbones import BACKBONES

    name, backbone, package, module = _NEEDS[metric]
    url = BACKBONES[backbone].published.url
    folder = Path(torch.hub.get_dir(), "checkpoints")
    if not (folder / Path(urlparse(url).path).name).is_file():
        return f"{name}'s weights are not on this disk; put {url} into {folder}"
    if find_spec(module) is None:
        return f"its calibration is not installed; run: pip install {package}"
    return None


_NEEDS = {
    "lpips": ("AlexNet", "alexnet", "lpips", "lpips"),
    "dists": ("VGG16", "vgg16", "dists-pytorch", "DISTS_pytorch"),
}


def _distance(metric: str, output: Tensor, target: Tensor, *, border: int, smallest: int) -> Tensor:
    images = [counted_rgb(x, border=border)[None].float() for x in (output, target)]
    if min(images[0].shape[-2:]) < smallest:
        return torch.tensor(math.nan)
    with torch.no_grad():
        value: Tensor = _net(metric, str(output.device))(*images)
    return value


@functools.cache
def _net(metric: str, device: str) -> nn.Module:
    from sr.losses.dists import DISTS  # torchvision takes seconds to import, and other metrics do without
    from sr.losses.lpips import LPIPS

    return (LPIPS(net="alex") if metric == "lpips" else DISTS()).to(device).eval()
