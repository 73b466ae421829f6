"""Video encoders for `--codec`, the default first. Kept apart so that the command line can list them without torch."""

CODECS = "libx264", "libx265", "libsvtav1"
