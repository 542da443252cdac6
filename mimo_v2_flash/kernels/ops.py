"""Operations that NumPy lacks, dispatched on the tensor type: matmul, top-k, constants, writes.

The type of the first argument selects the implementation: NumPy's arrays in this module, nkipy's
tensors in `traced_ops`; tests register a strict array type. No other kernel depends on the type of
its tensors.

Source: `functools.singledispatch`; float32 accumulation as TensorE's PSUM and BLAS have it.
"""

import importlib
from functools import singledispatch
from typing import Any

import numpy as np

from mimo_v2_flash.cpu.swiglu import swiglu as compiled_swiglu
from mimo_v2_flash.quantization.matmul import matmul as stored_matmul

__all__ = ["arange", "constant", "full", "matmul", "put_rows", "sigmoid", "swiglu", "top_k"]


@singledispatch
def matmul(x: Any, w: Any) -> Any:
    """Return `x` [..., I] times the transpose of `w` [..., O, I], float32 [..., O].

    This is the only matmul of the kernels. It accumulates in float32 whatever the operands'
    dtypes. `w` is a float32 or bfloat16 tensor, or a `QuantizedTensor`. Batch axes broadcast.
    """
    return _for_type_of(x, matmul)(x, w)


@singledispatch
def top_k(x: Any, k: int) -> Any:
    """Return the `k` largest values along the last axis and their int32 indices, largest first.

    Of equal values the lowest index comes first.

    Raises
    ------
    ValueError
        If an array holds NaN or infinity, which a comparison would order silently. Traced
        programs cannot check values.
    """
    return _for_type_of(x, top_k)(x, k)


@singledispatch
def arange(like: Any, count: int) -> Any:
    """Return the int32 numbers 0 to `count` - 1 in the type of `like`; a program computes them."""
    return _for_type_of(like, arange)(like, count)


@singledispatch
def constant(like: Any, array: np.ndarray) -> Any:
    """Return `array` as a constant tensor of the type of `like`, of at most 64 KiB."""
    return _for_type_of(like, constant)(like, array)


@singledispatch
def full(like: Any, shape: tuple[int, ...], value: float, dtype: Any) -> Any:
    """Return a new tensor of the type of `like`, filled with `value`.

    Parameters
    ----------
    like : array or tensor
        A value of the kind to make: NumPy's, or traced.
    shape : tuple of int
        Shape of the tensor.
    value : float
        Its value.
    dtype : dtype
        Its dtype.
    """
    return _for_type_of(like, full)(like, shape, value, dtype)


@singledispatch
def put_rows(buffer: Any, row_N: Any, x: Any) -> None:
    """Write the rows of `x` into `buffer` in place.

    Indices in `row_N` are not negative and, but for a trash row, unique: which of two writes to
    the same row remains is not defined.

    Parameters
    ----------
    buffer : array or tensor
        What is written into, along its first axis.
    row_N : array of int32
        Row of each entry of `x`.
    x : array or tensor
        What is written, in the dtype of `buffer`.

    Raises
    ------
    ValueError
        If dtypes or shapes differ: a traced program neither casts nor broadcasts a write.
    """
    _for_type_of(buffer, put_rows)(buffer, row_N, x)


def sigmoid(x):
    """Return 1 / (1 + exp(-x)), without overflow for either sign."""
    return np.exp(np.minimum(x, 0.0)) / (1.0 + np.exp(-np.abs(x)))


@singledispatch
def swiglu(gate: Any, up: Any) -> Any:
    """Return silu(gate) x up, the activations of a SwiGLU network; silu(z) = z sigmoid(z)."""
    return gate * sigmoid(gate) * up


@swiglu.register
def _(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    activations = compiled_swiglu(gate, up)
    return swiglu.dispatch(object)(gate, up) if activations is None else activations


@matmul.register
def _(x: np.ndarray, w: Any) -> np.ndarray:
    if x.shape[-1] != w.shape[-1]:
        raise ValueError(f"matmul: x is {x.shape}, w is {w.shape}: last axes must be equal")
    return stored_matmul(x.astype(np.float32, copy=False), w)


@top_k.register
def _(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    if not np.isfinite(x).all():
        raise ValueError("top_k: scores must be finite, got NaN or infinity")
    index = np.argsort(-x, axis=-1, kind="stable")[..., :k].astype(np.int32)
    return np.take_along_axis(x, index, axis=-1), index


@arange.register
def _(like: np.ndarray, count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int32)


@constant.register
def _(like: np.ndarray, array: np.ndarray) -> np.ndarray:
    return array


@full.register
def _(like: np.ndarray, shape: tuple[int, ...], value: float, dtype: Any) -> np.ndarray:
    return np.full(shape, value, dtype)


@put_rows.register
def _(buffer: np.ndarray, row_N: np.ndarray, x: np.ndarray) -> None:
    if x.dtype != buffer.dtype or x.shape != (*row_N.shape, *buffer.shape[1:]):
        raise ValueError(
            f"put_rows: x is {x.dtype} {x.shape}, "
            f"expected {buffer.dtype} {(*row_N.shape, *buffer.shape[1:])}"
        )
    buffer[row_N] = x


def _for_type_of(tensor: Any, function: Any) -> Any:
    """Return the implementation for the type of `tensor`; import `traced_ops` for nkipy's."""
    if type(tensor).__module__.split(".")[0] == "nkipy":
        importlib.import_module(".traced_ops", __package__)
    implementation = function.dispatch(type(tensor))
    if implementation is function.dispatch(object):
        raise TypeError(f"{function.__name__}: no implementation for {type(tensor)}")
    return implementation
