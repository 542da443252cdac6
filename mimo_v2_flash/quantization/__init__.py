"""Storage formats of weights: how a matrix is stored, one file per format.

A new format is a file here, which this module imports, and a test. Outside the package a format
registers itself with `register_format`.
"""

from . import fp8 as _fp8  # noqa: F401  # registers itself
from .quantized_tensor import QuantizedTensor, StoredTensor
from .registry import find_format, get_format, register_format

__all__ = ["QuantizedTensor", "StoredTensor", "find_format", "get_format", "register_format"]
