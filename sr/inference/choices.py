"""Values that the command line lists and checks, without importing torch."""

CODECS = "libx264", "libx265", "libsvtav1"
"""Video encoders for `--codec`, the default first."""

MAX_SCALE = 16
"""Largest factor of upscaling. A larger one is probably a typo, and would exhaust memory."""
