"""Checkpoints: their tensors on disk and on the hub, and the weights of a model from them."""

from .load import load_weights

__all__ = ["load_weights"]
