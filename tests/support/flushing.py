"""Flush-to-zero: a thread's state in which subnormal numbers count as zero."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

__all__ = ["flush_to_zero"]

SUBNORMAL = np.array([1e-45], np.float32)


@contextmanager
def flush_to_zero() -> Iterator[None]:
    """Set flush-to-zero in the calling thread, and in those that it starts; skip if it cannot."""
    torch = pytest.importorskip("torch")
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush")
    try:
        assert SUBNORMAL * np.float32(1) == 0
        yield
    finally:
        torch.set_flush_denormal(False)
    assert SUBNORMAL * np.float32(1) > 0
