"""NumPy's float32 product, without the floating-point flags that BLAS leaves behind.

Source: OpenBLAS's vector kernels compute on lanes beyond the end of a row and throw them away; what
lies there may set the flag "invalid", for which NumPy then warns.
"""

import numpy as np

__all__ = ["times_transposed"]


def times_transposed(x: np.ndarray, w: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return `x` [..., I] times the transpose of `w` [..., O, I], both float32; NaN stays NaN."""
    with np.errstate(invalid="ignore"):
        return np.matmul(x, np.swapaxes(w, -1, -2), out=out)
