"""LPIPS (Zhang et al. 2018) with AlexNet, the authors' choice for a metric, where its weights are at hand."""

import functools
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from sr.errors import UserError
from sr.metrics.protocol import counted_rgb

SMALLEST = 31  # pixels: of less AlexNet's convolutions and poolings leave nothing


def lpips(output: Tensor, target: Tensor, *, border: int) -> float:
    """0 for equal pictures; output, target: [3, h, w] in 0..1. border: pixels left out on every side.

    Raises UserError for pictures of less than 31 pixels a side.
    """
    images = [counted_rgb(x, border=border)[None].float() for x in (output, target)]
    if min(images[0].shape[-2:]) < SMALLEST:
        raise UserError(f"LPIPS needs pictures of {SMALLEST} pixels a side; leave it out, or give larger pictures")
    with torch.no_grad():
        value: Tensor = _net(str(output.device))(*images)
    return value.item()


def missing_weights() -> str | None:
    """The sentence that says what is not on this disk and how to get it; measuring never downloads by surprise."""
    from sr.losses.backbones import BACKBONES

    url = BACKBONES["alexnet"].published.url
    folder = Path(torch.hub.get_dir(), "checkpoints")
    if not (folder / Path(urlparse(url).path).name).is_file():
        return f"AlexNet's weights are not on this disk; put {url} into {folder}"
    if find_spec("lpips") is None:
        return "its calibration is not installed; run: pip install lpips"
    return None


@functools.cache
def _net(device: str) -> nn.Module:
    from sr.losses.lpips import LPIPS  # torchvision takes seconds to import, and other metrics do without

    return LPIPS(net="alex").to(device).eval()
