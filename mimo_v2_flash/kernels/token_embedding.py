"""Token embedding: a lookup of one table row per token, unscaled.

Source: transformers `models/mimo_v2_flash` (`MiMoV2FlashModel.embed_tokens`). MiMo: V = 152,576,
D = 4096, bfloat16, not tied to the head.
"""

import numpy as np

from .axes import checked

__all__ = ["token_embedding"]


@checked
def token_embedding(token_N, embedding_VD):
    """Return `x_ND`, in the table's dtype. The host checks token ids."""
    return np.take(embedding_VD, token_N, axis=0)
