"""Train super-resolution GANs, then upscale images and videos.

`sr.load(MODEL)` returns a function from image to image, and `sr.upscale(PATHS, OUTPUT, model=MODEL)` processes files.
Both are imported when they are first used, because they import torch.
"""

from typing import TYPE_CHECKING, Any

from sr.core.openmp import set_wait_policy
from sr.core.version import __version__

if TYPE_CHECKING:
    from sr.inference.api import load, upscale

__all__ = ["__version__", "load", "upscale"]

set_wait_policy()  # before any module imports torch


def __getattr__(name: str) -> Any:
    if name not in ("load", "upscale"):
        raise AttributeError(f"module 'sr' has no attribute '{name}'")
    from sr.inference import api

    return getattr(api, name)
