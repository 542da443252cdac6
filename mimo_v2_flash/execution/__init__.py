"""Where programs run. A backend turns a layer into a program of the same signature."""

from .backend import Backend
from .numpy import NumpyBackend

__all__ = ["Backend", "NumpyBackend"]
