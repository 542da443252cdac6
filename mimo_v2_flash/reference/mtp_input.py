"""Reference input of an MTP head: loops over tokens and channels.

Source: SGLang `models/mimo_v2_nextn.py`.
"""

import numpy as np

from .rmsnorm import rmsnorm

__all__ = ["mtp_input"]


def mtp_input(embedded_ND, hidden_ND, embedding_norm_D, hidden_norm_D, w_eh_DI, *, epsilon: float):
    """Return `x_ND`.

    x_d = sum_i W[d, i] e_i + sum_i W[d, D + i] h_i, of normalised embedding e and hidden state h
    """
    e_ND = rmsnorm(embedded_ND, embedding_norm_D, epsilon=epsilon)
    h_ND = rmsnorm(hidden_ND, hidden_norm_D, epsilon=epsilon)
    N, D = hidden_ND.shape
    x_ND = np.zeros((N, D))
    for n in range(N):
        for d in range(D):
            w_I = [float(w) for w in w_eh_DI[d]]
            x_ND[n, d] = sum(w_I[i] * e_ND[n, i] for i in range(D))
            x_ND[n, d] += sum(w_I[D + i] * h_ND[n, i] for i in range(D))
    return x_ND
