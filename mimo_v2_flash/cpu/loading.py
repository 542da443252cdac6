"""Loading of the modules of compiled loops, where numba is installed; it takes half a second."""

import importlib
from functools import cache
from types import ModuleType

__all__ = ["compiled_module"]


@cache
def compiled_module(name: str) -> ModuleType | None:
    """Return the module `name` of this package, or None where numba is not installed."""
    try:
        return importlib.import_module(f".{name}", __package__)
    except ImportError:
        return None
