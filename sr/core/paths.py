"""Paths as users write them."""

import os


def expanded(name: str) -> str:
    """A path with `~` and environment variables replaced."""
    return os.path.expandvars(os.path.expanduser(name))
