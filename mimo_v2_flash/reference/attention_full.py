"""Reference full attention: a token attends to itself and to every token before it.

Source: transformers `models/mimo_v2_flash` (`MiMoV2FlashAttention`, "full_attention").
"""

import math

from .attention import attention

__all__ = ["attention_full"]


def attention_full(
    q_BTHQ,
    k_BTKQ,
    v_BTKC,
    position_BT,
    prior_k_BSKQ,
    prior_v_BSKC,
    prior_position_BS,
    sink_H,
    *,
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
        window=math.inf,
    )
