"""SwiGLU's activations of many tokens, by compiled loops on all threads."""

import numpy as np

from .loading import compiled_module
from .thread_pool import available_threads, parallel_for

__all__ = ["swiglu"]

MIN_SHARE = 1 << 16  # activations, below which a thread is not worth its hand-over


def swiglu(gate_NF: np.ndarray, up_NF: np.ndarray) -> np.ndarray | None:
    """Return silu(gate) x up, or None if compiled loops cannot read these arrays."""
    tensors = gate_NF, up_NF
    if any(t.dtype != np.float32 or t.ndim != 2 or not t.flags.c_contiguous for t in tensors):
        return None
    if gate_NF.shape != up_NF.shape or (loops := compiled_module("row_loops")) is None:
        return None
    y_NF = np.empty(gate_NF.shape, np.float32)
    N = len(gate_NF)
    shares = max(1, min(N, available_threads(), gate_NF.size // MIN_SHARE))

    def fill(share: int) -> None:
        loops.swiglu_rows(gate_NF, up_NF, y_NF, N * share // shares, N * (share + 1) // shares)

    parallel_for(fill, shares)
    return y_NF
