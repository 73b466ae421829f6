"""A page to look at: what programs and models made of images, beside bicubic and the ground truth."""

from sr.report.make import Made, make_report

__all__ = ["Made", "make_report"]
