"""Dense feed-forward layer: one SwiGLU network for every token, in blocks of tokens.

Source: transformers `models/mimo_v2_flash` (`MiMoV2FlashMLP`). MiMo: layer 0 alone (and the MTP
heads), D = 4096, F = 16,384.
"""

import numpy as np

from .axes import checked
from .moe_expert import moe_expert

__all__ = ["dense_ffn"]


@checked
def dense_ffn(x_ND, w_gate_FD, w_up_FD, w_down_DF, *, token_block: int):
    """Return `y_ND`, the SwiGLU network of every token, float32, in blocks of `token_block` tokens.

    Hidden activations take token_block x F memory, not N x F.

    Parameters
    ----------
    x_ND : array, float32 or bfloat16
        Normalised hidden states.
    w_gate_FD, w_up_FD, w_down_DF : array or QuantizedTensor
        Weights of the network.
    token_block : int
        Tokens of a block.

    Raises
    ------
    ValueError
        If `token_block` is less than 1.
    """
    if token_block < 1:
        raise ValueError(f"dense_ffn: token_block {token_block} is not at least 1")
    N = x_ND.shape[0]
    blocks = [
        moe_expert(x_ND[start : min(start + token_block, N)], w_gate_FD, w_up_FD, w_down_DF)
        for start in range(0, N, token_block)
    ]
    return np.concatenate(blocks, axis=0) if len(blocks) > 1 else blocks[0]
