"""Checks of option values that a type cannot express. `sr.config.signatures` refers to them by name."""

from typing import TypeVar

K = TypeVar("K")


def ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError("give the lower bound first")
    return bounds


def around_one(bounds: tuple[float, float]) -> tuple[float, float]:
    if not bounds[0] <= 1 <= bounds[1]:
        raise ValueError("give one bound up to 1 and one from 1 on")
    return bounds


def odd_ascending(sizes: tuple[int, int]) -> tuple[int, int]:
    if sizes[0] < 1 or sizes[0] > sizes[1] or sizes[0] % 2 == 0 or sizes[1] % 2 == 0:
        raise ValueError("give two odd sizes, the smaller first")
    return sizes


def some_share(kinds: dict[K, float]) -> dict[K, float]:
    if not sum(kinds.values()):
        raise ValueError("give at least one kind a share above 0")
    return kinds
