"""What this machine lacks: marks for tests of what is then not used."""

from importlib import import_module

import pytest

__all__ = ["needs_numba"]


def _is_missing(module: str) -> bool:
    try:
        import_module(module)
    except ImportError:
        return True
    return False


needs_numba = pytest.mark.skipif(_is_missing("numba"), reason="numba is not installed")
