"""The adapter to basicsr; the parity tests use it throughout."""

import importlib.util

import pytest

from sr.core.errors import UserError
from sr.nets.io.basicsr import basicsr


@pytest.mark.skipif(importlib.util.find_spec("basicsr") is None, reason="basicsr, the reference, is an extra")
def test_import_works_with_todays_torchvision():
    assert basicsr("data.degradations").__name__ == "basicsr.data.degradations"  # it imports the removed module
    assert basicsr("losses").__name__ == "basicsr.losses"


def test_a_missing_package_is_reported_with_the_fix(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'sr-train\[basicsr\]'"):
        basicsr("archs.rrdbnet_arch")
