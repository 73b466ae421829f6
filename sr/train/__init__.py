"""The training loop and everything that it builds, saves and reports."""
