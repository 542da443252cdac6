"""Reference language-model head: a loop over tokens and the vocabulary.

Source: transformers `models/mimo_v2_flash` (`MiMoV2FlashForCausalLM.lm_head`).
"""

import numpy as np

__all__ = ["lm_head"]


def lm_head(x_ND, w_VD):
    """Return `logits_NV`: logit_v = x_1 w_v1 + ... + x_D w_vD."""
    N, V = len(x_ND), len(w_VD)
    logits_NV = np.empty((N, V))
    for n, v in np.ndindex(N, V):
        logits_NV[n, v] = sum(float(x) * float(w) for x, w in zip(x_ND[n], w_VD[v], strict=True))
    return logits_NV
