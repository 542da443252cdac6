"""Storage formats of weights: how a matrix is stored, one file per format.

A new format is a file here, which this module imports, and a test. Outside the package a format
registers itself with `register_format`.
"""

from . import fp8 as _fp8  # noqa: F401  # it registers itself, as all below
from . import fp8_channel as _fp8_channel  # noqa: F401
from . import int4 as _int4  # noqa: F401
from . import int8 as _int8  # noqa: F401
from . import mxfp4 as _mxfp4  # noqa: F401
from . import q3_k as _q3_k  # noqa: F401
from . import q4_k as _q4_k  # noqa: F401
from . import q6_k as _q6_k  # noqa: F401
from . import q8_0 as _q8_0  # noqa: F401
from .quantized_tensor import AxisSlice, QuantizedTensor, StoredTensor
from .registry import HUB_FORMAT, find_format, find_joint_layout, get_format, register_format
from .stored_layout import StoredLayout, row_layout

__all__ = [
    "HUB_FORMAT",
    "AxisSlice",
    "QuantizedTensor",
    "StoredLayout",
    "StoredTensor",
    "find_format",
    "find_joint_layout",
    "get_format",
    "register_format",
    "row_layout",
]
