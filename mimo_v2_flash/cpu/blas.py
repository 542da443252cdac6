"""NumPy's float32 matmul, without warnings for the floating-point flags that BLAS sets.

Source: OpenBLAS's vector kernels compute on lanes beyond the end of a row and discard them; the
memory there may set the flag "invalid", for which NumPy then warns.
"""

import numpy as np

__all__ = ["times_transposed"]


def times_transposed(x: np.ndarray, w: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return `x` [..., I] times the transpose of `w` [..., O, I], both float32; NaN stays NaN."""
    with np.errstate(invalid="ignore"):
        return np.matmul(x, np.swapaxes(w, -1, -2), out=out)
