"""Validation: pictures through the network, compared with what they should be, shared over the ranks."""

from sr.validate.measure import Results, Row, evaluate
from sr.validate.sets import Example, Item, ValSet, source_set, val_set

__all__ = ["Example", "Item", "Results", "Row", "ValSet", "evaluate", "source_set", "val_set"]
