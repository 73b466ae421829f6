"""sr: distributed training of image super-resolution and translation GANs."""

from sr.core.openmp import set_wait_policy

__version__ = "0.1.0"

set_wait_policy()  # before any module imports torch
