"""Reference root-mean-square normalisation: a loop over tokens.

Source: arXiv:1910.07467, equation 4.
"""

import numpy as np

__all__ = ["rmsnorm"]


def rmsnorm(x_ND, weight_D, *, epsilon: float):
    """Return `y_ND`.

    y_d = x_d / sqrt((x_1^2 + ... + x_D^2) / D + epsilon) * weight_d
    """
    N, D = x_ND.shape
    y_ND = np.empty((N, D))
    for n in range(N):
        x = [float(value) for value in x_ND[n]]
        rms = (sum(value * value for value in x) / D + epsilon) ** 0.5
        y_ND[n] = [x[d] / rms * float(weight_D[d]) for d in range(D)]
    return y_ND
