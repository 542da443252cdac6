"""Sliding-window attention: a token attends to itself and to the `window` - 1 tokens before it.

Source: transformers `models/mimo_v2_flash` (`MiMoV2FlashAttention`, "sliding_attention"). The
window counts the token itself (`sliding_window_size + 1`), as SGLang and transformers have it.
MiMo: 39 of 48 layers; window 129; 64 heads over 8 KV heads; a learned sink per head.
"""

from .attention import KVSegment, attend_in_blocks
from .axes import checked

__all__ = ["attention_swa"]


@checked
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
    """Return `y_BTHC`: each token's attention to the ring buffer (prior) and to its own step.

        y = softmax(q.k / sqrt(Q) over the last `window` keys, sink) . v

    The cost is O(T x window) in time and memory. The slots of the ring buffer may be in any order:
    each has its position. S may be 0.

    Parameters
    ----------
    q_BTHQ, k_BTKQ, v_BTKC : array, float32 or bfloat16
        Queries, keys and values of the step, rotated and scaled.
    position_BT : array of int32
        Positions of the step's tokens; -1 is padding.
    prior_k_BSKQ, prior_v_BSKC : array
        Keys and values of the ring buffer.
    prior_position_BS : array of int32
        Positions of its slots, in any order; -1 is an empty one.
    sink_H : array
        Sink of each query head, a logit.
    window : int
        Keys that a token attends to, itself included: 129 in MiMo-V2-Flash.
    query_block : int
        Tokens of a block of queries.

    Raises
    ------
    ValueError
        If a shape or dtype contradicts its name, H is no multiple of K, or the window is empty.
    """
    if window < 1:
        raise ValueError(f"attention_swa: window must be at least 1, got {window}")
    active = KVSegment(k_BTKQ, v_BTKC, position_BT)
    prior = KVSegment(prior_k_BSKQ, prior_v_BSKC, prior_position_BS)
    return attend_in_blocks(q_BTHQ, active, prior, sink_H, window=window, query_block=query_block)
