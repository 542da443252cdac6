"""Token embedding: the program that begins every pass."""

from typing import Any

import numpy as np

from mimo_v2_flash.kernels.token_embedding import token_embedding
from mimo_v2_flash.quantization import QuantizedTensor

__all__ = ["embed"]


def embed(token_N: Any, embedding_VD: Any, *, dtype: str) -> Any:
    """Return the token embeddings, `x_ND`, in `dtype`; rows of a quantized table are decoded.

    Parameters
    ----------
    token_N : array of int32
        Token ids.
    embedding_VD : array or QuantizedTensor
        The table.
    dtype : str
        Dtype of the hidden states.
    """
    if isinstance(embedding_VD, QuantizedTensor):
        rows = (slice(token, token + 1) for token in token_N.tolist())
        decoded = map(embedding_VD.dequantize, (slice(0, 0), *rows))  # a rank may have no token
        embedding_VD, token_N = np.concatenate([*decoded]), np.arange(len(token_N), dtype=np.int32)
    return token_embedding(token_N, embedding_VD).astype(np.dtype(dtype))
