"""The dense feed-forward: one gated network for every token, in blocks of tokens.

Source: transformers `models/mimo_v2_flash` (`MiMoV2FlashMLP`). MiMo: layer 0 alone (and the MTP
heads), D = 4096, F = 16,384.
"""

import numpy as np

from .axes import checked
from .moe_expert import moe_expert

__all__ = ["dense_ffn"]


@checked
def dense_ffn(x_ND, w_gate_FD, w_up_FD, w_down_DF, *, token_block: int):
    """Return `y_ND` in float32: the network of `moe_expert`, `token_block` tokens at a time.

    So the hidden width takes token_block x F memory, not N x F.
    """
    starts = range(0, x_ND.shape[0], token_block)
    blocks = [
        moe_expert(x_ND[start : min(start + token_block, x_ND.shape[0])], w_gate_FD, w_up_FD, w_down_DF)
        for start in starts
    ]
    return np.concatenate(blocks, axis=0) if len(blocks) > 1 else blocks[0]
