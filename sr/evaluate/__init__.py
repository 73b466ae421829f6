"""Metrics, validation sets and scores."""
