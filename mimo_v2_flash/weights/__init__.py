"""Checkpoints as records of arrays: what is stored, under which names, and where."""

from .load import load_weights

__all__ = ["load_weights"]
