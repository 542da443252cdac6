"""Token embedding: the program that begins every pass."""

from typing import Any

import numpy as np

from mimo_v2_flash.kernels.token_embedding import token_embedding

__all__ = ["embed"]


def embed(token_N: Any, embedding_VD: Any, *, dtype: str) -> Any:
    """Return the token embeddings, `x_ND`, in `dtype`."""
    return token_embedding(token_N, embedding_VD).astype(np.dtype(dtype))
