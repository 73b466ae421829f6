"""Model files: load, convert state dicts, interpolate, and adapt networks to any image size."""
