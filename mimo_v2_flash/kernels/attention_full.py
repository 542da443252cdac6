"""Full causal attention: a token attends to itself and to every token before it.

Source: transformers `models/mimo_v2_flash` (`MiMoV2FlashAttention`, "full_attention"). MiMo: layers
0, 5, 11, 17, 23, 29, 35, 41 and 47; 64 heads over 4 KV heads; no sinks.
"""

from .attention import NO_WINDOW, KVSegment, attend_in_blocks
from .axes import checked

__all__ = ["attention_full"]


@checked
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
    """Return `y_BTHC`: each token's attention to the cache (prior) and to its own step.

        y = softmax(q.k / sqrt(Q) over keys at or before the query, sink) . v

    A block of queries is computed on the keys up to its last token: scores take
    query_block x (S + T) memory for each head, and a prompt takes half the work of a square. S may
    be 0.

    Parameters
    ----------
    q_BTHQ, k_BTKQ, v_BTKC : array, float32 or bfloat16
        Queries, keys and values of the step, rotated and scaled.
    position_BT : array of int32
        Positions of the step's tokens; -1 is padding.
    prior_k_BSKQ, prior_v_BSKC : array
        Keys and values of the cache.
    prior_position_BS : array of int32
        Positions of the cache's slots; -1 is an empty one.
    sink_H : array
        Sink of each query head, a logit; `softmax.NO_SINK` where a layer has none.
    query_block : int
        Tokens of a block of queries.

    Raises
    ------
    ValueError
        If a shape or dtype contradicts its name, or H is no multiple of K.
    """
    active = KVSegment(k_BTKQ, v_BTKC, position_BT)
    prior = KVSegment(prior_k_BSKQ, prior_v_BSKC, prior_position_BS)
    return attend_in_blocks(
        q_BTHQ, active, prior, sink_H, window=NO_WINDOW, query_block=query_block
    )
