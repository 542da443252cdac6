"""ggml's own C quantizer, an oracle of development: the wheel `xllamacpp` exports it.

It is called by ctypes, and nothing of it is imported. A test that asks for it is skipped where the
wheel is not installed.
"""

import ctypes
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

__all__ = ["TYPES", "ggml_quantized", "gguf_dequantized"]

TYPES = {
    "q8_0": GGMLQuantizationType.Q8_0,
    "q6_k": GGMLQuantizationType.Q6_K,
    "q4_k": GGMLQuantizationType.Q4_K,
    "q3_k": GGMLQuantizationType.Q3_K,
}


@cache
def _library() -> Any:
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        pytest.skip("xllamacpp, whose wheel has ggml's quantizer, is not installed")
    library = ctypes.CDLL(str(next(Path(spec.origin).parent.glob("xllamacpp*.so"))))
    quantize = library.ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    quantize.argtypes = [
        *(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p),
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]
    return quantize


def ggml_quantized(name: str, w_OI: np.ndarray) -> np.ndarray:
    """Return the bytes that ggml's C code makes of a float32 weight."""
    columns, size = GGML_QUANT_SIZES[TYPES[name]]
    w_OI = np.ascontiguousarray(w_OI, np.float32)
    (outputs, inputs), quantize = w_OI.shape, _library()
    data = np.zeros((outputs, inputs // columns * size), np.uint8)
    count = quantize(TYPES[name], w_OI.ctypes.data, data.ctypes.data, 0, outputs, inputs, None)
    assert count == data.nbytes
    return data


def gguf_dequantized(name: str, data: np.ndarray) -> np.ndarray:
    """Return the float32 values of ggml's bytes, by the `gguf` package."""
    from gguf.quants import dequantize

    return dequantize(data, TYPES[name])
