"""Execution backends: each compiles a layer into a program with the same signature."""

from .backend import Backend
from .numpy import NumpyBackend

__all__ = ["Backend", "NumpyBackend"]
