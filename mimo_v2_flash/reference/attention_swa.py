"""Reference sliding-window attention: a token and the `window` - 1 positions before it.

Source: transformers `models/mimo_v2_flash` (`MiMoV2FlashAttention`, "sliding_attention"; the
window is `sliding_window_size + 1` in `MiMoV2FlashConfig`).
"""

from .attention import attention

__all__ = ["attention_swa"]


def attention_swa(
    q_BTHQ,
    k_BTKQ,
    v_BTKC,
    position_BT,
    prior_k_BSKQ,
    prior_v_BSKC,
    prior_position_BS,
    sink_H,
    *,
    window: int,
    query_block: int,
):
    """Return `y_BTHC`; `query_block` has no effect on it."""
    return attention(
        q_BTHQ,
        k_BTKQ,
        v_BTKC,
        position_BT,
        prior_k_BSKQ,
        prior_v_BSKC,
        prior_position_BS,
        sink_H,
        window=window,
    )
