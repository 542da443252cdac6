"""Reference token embedding: a loop over tokens.

Source: transformers `models/mimo_v2_flash` (`MiMoV2FlashModel.embed_tokens`).
"""

import numpy as np

__all__ = ["token_embedding"]


def token_embedding(token_BT, embedding_VD):
    """Return `x_BTD`: row `token` of the table."""
    B, T = token_BT.shape
    x_BTD = np.empty((B, T, embedding_VD.shape[1]))
    for b, t in np.ndindex(B, T):
        x_BTD[b, t] = embedding_VD[int(token_BT[b, t])]
    return x_BTD
