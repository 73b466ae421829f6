"""Validation: run a network on image sets and compare with ground truth, shared over the ranks."""

from sr.evaluate.validate.measure import Results, Row, ValidationFailed, check_images, evaluate
from sr.evaluate.validate.sets import Degrade, Example, Item, ValSet, output_set, source_set, val_set

__all__ = [
    "Degrade",
    "Example",
    "Item",
    "Results",
    "Row",
    "ValSet",
    "ValidationFailed",
    "check_images",
    "evaluate",
    "output_set",
    "source_set",
    "val_set",
]
