"""Validation: images through the network, compared with what they should be, shared over the ranks."""

from sr.evaluate.validate.measure import Results, Row, evaluate
from sr.evaluate.validate.sets import Example, Item, ValSet, output_set, source_set, val_set

__all__ = ["Example", "Item", "Results", "Row", "ValSet", "evaluate", "output_set", "source_set", "val_set"]
