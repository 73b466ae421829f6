"""sr: distributed training of image super-resolution and translation GANs."""

__version__ = "0.1.0"
