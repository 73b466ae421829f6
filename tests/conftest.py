"""Fixtures of all tests: small images and a small options file."""

import atexit
import copy
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.helpers.program import TINY, write_photos

os.environ.setdefault("OMP_NUM_THREADS", "1")

# The program's caches go to a temporary folder. What other libraries downloaded to the user's cache is still found.
_caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault("TORCH_HOME", str(_caches / "torch"))
os.environ.setdefault("HF_HOME", str(_caches / "huggingface"))
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="sr-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _shapes() -> None:
    if "sr.train.build_nets" in sys.modules:  # imported by a selected test; otherwise it would cost seconds
        from tests.helpers.training import check_equal_shapes_once

        check_equal_shapes_once()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos")


@pytest.fixture
def recipe(tmp_path: Path, photos: Path) -> Callable[..., Path]:
    """Writes TINY (with keys replaced, dots for depth) as an options file whose paths are all inside tmp_path."""

    def write(**changes: object) -> Path:
        options = yaml.safe_load(yaml.safe_dump(TINY))
        options["out"] = str(tmp_path / "runs")
        options["data"]["source"] = {"type": "folder", "gt": str(photos)}
        for dotted, value in changes.items():
            *path, last = dotted.split("__")
            target = options
            for step in path:
                target = target.setdefault(step, {})
            if value is None:
                target.pop(last)
            else:
                target[last] = copy.deepcopy(value)  # or a later change would reach the test's own constants
        file = tmp_path / f"{options['name']}.yml"
        file.write_text(yaml.safe_dump(options, sort_keys=False))
        return file

    return write
