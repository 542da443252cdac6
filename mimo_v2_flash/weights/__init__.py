"""Checkpoints: reading, converting, sharding and loading the weights of a model."""

from .load import load_weights

__all__ = ["load_weights"]
