"""Reference dense feed-forward layer: one expert for every token.

Source: transformers `models/mimo_v2_flash` (`MiMoV2FlashMLP`).
"""

from .moe_expert import moe_expert

__all__ = ["dense_ffn"]


def dense_ffn(x_ND, w_gate_FD, w_up_FD, w_down_DF, *, token_block: int):
    """Return `y_ND`; `token_block` has no effect on it."""
    return moe_expert(x_ND, w_gate_FD, w_up_FD, w_down_DF)
