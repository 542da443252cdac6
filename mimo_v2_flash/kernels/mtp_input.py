"""Input of an MTP head: the embedding of a token beside the hidden state of an earlier one.

Source: SGLang `models/mimo_v2_nextn.py`. MiMo: D = 4096; the hidden state is the residual stream
after the last decoder layer, before the final norm, 1, 2 or 3 tokens before the embedded token.
"""

import numpy as np

from . import ops
from .axes import checked
from .rmsnorm import rmsnorm

__all__ = ["mtp_input"]


@checked
def mtp_input(embedded_ND, hidden_ND, embedding_norm_D, hidden_norm_D, w_eh_DI, *, epsilon: float):
    """Return `x_ND`, in the dtype of `hidden_ND`: the projection of both vectors, each normalised.

        x = W [rmsnorm(embedded); rmsnorm(hidden)]

    Parameters
    ----------
    embedded_ND, hidden_ND : array, float32 or bfloat16
        Embedding of each token, and the hidden state of the token before it.
    embedding_norm_D, hidden_norm_D : array
        Weights of their norms.
    w_eh_DI : array or QuantizedTensor
        The projection, of I = 2D inputs.
    epsilon : float
        Epsilon of the norms.

    Raises
    ------
    ValueError
        If the weight has not two inputs for each channel.
    """
    D, I = hidden_ND.shape[1], w_eh_DI.shape[1]  # noqa: E741
    if I != 2 * D:
        raise ValueError(f"mtp_input: w_eh_DI has {I} inputs, expected {2 * D}")
    parts = (
        rmsnorm(embedded_ND, embedding_norm_D, epsilon=epsilon),
        rmsnorm(hidden_ND, hidden_norm_D, epsilon=epsilon),
    )
    return ops.matmul(np.concatenate(parts, axis=1), w_eh_DI).astype(hidden_ND.dtype)
