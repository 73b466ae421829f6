"""Marks for the cases of a parametrized test that only the tier `slow` runs."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow(cases: Iterable[Any]) -> list[Any]:
    """Cases of which the others in the same test stand for the same behavior in the fast tier."""
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow) for case in cases]
