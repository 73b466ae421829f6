"""Convert option files of other trainers."""
