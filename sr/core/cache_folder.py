"""Where `sr` keeps files between runs."""

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """The cache of models, shards or receptive fields: in $SR_HOME, else in `sr` under $XDG_CACHE_HOME or ~/.cache.

    Raises RuntimeError where neither variable is set and there is no home folder.
    """
    if home := os.environ.get("SR_HOME"):
        return Path(home) / kind
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sr" / kind
