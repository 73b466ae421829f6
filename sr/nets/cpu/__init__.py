"""Fast convolutions and dense blocks on a CPU."""
