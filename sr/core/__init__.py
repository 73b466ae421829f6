"""Errors, atomic file writes, signals and the memory allocator: needed by every other package."""
