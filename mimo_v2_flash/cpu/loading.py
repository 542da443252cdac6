"""Loading of the modules of compiled loops, where numba can be used; it takes half a second."""

import importlib
import warnings
from types import ModuleType

from .locked_cache import locked_cache

__all__ = ["compiled_module"]

_failures: list[Exception] = []


@locked_cache
def compiled_module(name: str) -> ModuleType | None:
    """Return the module `name` of this package, or None if numba cannot be used.

    Then products are NumPy's, and one warning in the life of the process says why.
    """
    try:
        return importlib.import_module(f".{name}", __package__)
    except Exception as failure:  # of numba, LLVM or their installation: NumPy is there
        reason = " ".join(str(failure).split())[:200]
        if not _failures:
            warnings.warn(
                f"numba cannot be used ({type(failure).__name__}: {reason}): weights are "
                "multiplied by NumPy, which is slower",
                RuntimeWarning,
                stacklevel=2,
            )
        _failures.append(failure)
        return None
