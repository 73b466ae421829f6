"""A page that compares upscaled images of programs and models with bicubic and the ground truth."""

from sr.report.make import Made, make_report

__all__ = ["Made", "make_report"]
