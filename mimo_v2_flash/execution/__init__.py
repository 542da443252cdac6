"""Execution backends: each compiles a layer into a program with the same signature."""

from .backend import Backend, MissingProgramError
from .numpy import NumpyBackend

__all__ = ["Backend", "MissingProgramError", "NumpyBackend"]
