"""Reference token embedding: a loop over tokens.

Source: transformers `models/mimo_v2_flash` (`MiMoV2FlashModel.embed_tokens`).
"""

import numpy as np

__all__ = ["token_embedding"]


def token_embedding(token_N, embedding_VD):
    """Return `x_ND`: row `token` of the table."""
    x_ND = np.empty((len(token_N), embedding_VD.shape[1]))
    for n, token in enumerate(token_N):
        x_ND[n] = embedding_VD[int(token)]
    return x_ND
