"""Checks of every kernel beside its float64 oracle, on small random inputs."""
