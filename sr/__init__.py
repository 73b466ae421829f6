"""Train super-resolution GANs, then upscale images and videos.

- `sr.load(MODEL)` returns a function from image to image: see `sr.inference.api.load`.
- `sr.upscale(PATHS, OUTPUT, model=MODEL)` processes files: see `sr.inference.api.upscale`.
- `sr.train(RECIPE_OR_FILE, overrides={...})` trains: see `sr.train.api.train`.
- `sr.evaluate(MODEL, hr=FOLDER)` measures: see `sr.evaluate.api.evaluate`.

Each is imported when it is first used, because it imports torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sr.core.openmp import set_wait_policy
from sr.core.version import __version__

if TYPE_CHECKING:
    from sr.evaluate.api import evaluate
    from sr.inference.api import load, upscale
    from sr.train.api import train

__all__ = ["__version__", "evaluate", "load", "train", "upscale"]

set_wait_policy()  # before any module imports torch


def __getattr__(name: str) -> Any:
    if name in ("train", "evaluate"):  # packages that can be called, which the import sets as attributes
        return import_module(f"sr.{name}")
    if name in ("load", "upscale"):
        return getattr(import_module("sr.inference.api"), name)
    raise AttributeError(f"module 'sr' has no attribute '{name}'")
