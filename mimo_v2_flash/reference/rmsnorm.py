"""Reference root-mean-square normalisation: a loop over tokens.

Source: arXiv:1910.07467, equation 4.
"""

import numpy as np

__all__ = ["rmsnorm"]


def rmsnorm(x_BTD, weight_D, *, epsilon: float):
    """Return `y_BTD`.

    y_d = x_d / sqrt((x_1^2 + ... + x_D^2) / D + epsilon) * weight_d
    """
    B, T, D = x_BTD.shape
    y_BTD = np.empty((B, T, D))
    for b, t in np.ndindex(B, T):
        x = [float(value) for value in x_BTD[b, t]]
        rms = (sum(value * value for value in x) / D + epsilon) ** 0.5
        y_BTD[b, t] = [x[d] / rms * float(weight_D[d]) for d in range(D)]
    return y_BTD
