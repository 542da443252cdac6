"""Causal attention over packed segments, whose tokens lie flat: no token sees another segment.

Scores of one head, or one segment, exist at a time, so that they stay in the processor's cache.
Queries are already scaled.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Segments", "attend_full", "attend_sliding"]


class Segments:
    """Lengths of the segments of one step, and what attention derives from them.

    Parameters
    ----------
    lengths
        Tokens of each segment, in order; together a multiple of `block`.
    block
        Tokens that a sliding layer sees before each token.

    Raises
    ------
    ValueError
        If the tokens are no whole blocks.
    """

    def __init__(self, lengths: Sequence[int], block: int = 128) -> None:
        self.lengths, self.block = list(lengths), block
        if sum(self.lengths) % block:
            raise ValueError(f"{sum(self.lengths)} tokens: expected a multiple of {block}")
        counts = torch.tensor(self.lengths)
        starts = counts.cumsum(0) - counts
        index_N = torch.arange(len(counts)).repeat_interleave(counts)
        self.position_N = torch.arange(len(index_N)) - starts[index_N]
        self.end_N = (starts + counts)[index_N]
        self.mask_BQK = _additive(self._visible(index_N))

    def _visible(self, index_N: Tensor) -> Tensor:
        """Return which of two blocks of keys each query of a block sees."""
        blocks = index_N.unflatten(0, (-1, self.block))
        before = functional.pad(blocks[:-1], (0, 0, 1, 0), value=-1)
        same = blocks[:, :, None] == torch.cat([before, blocks], dim=1)[:, None]
        row, column = torch.arange(self.block)[:, None], torch.arange(2 * self.block)
        return same & (column >= row) & (column <= row + self.block)


def _additive(visible: Tensor) -> Tensor:
    return torch.zeros(visible.shape).masked_fill_(~visible, -torch.inf)


@lru_cache(maxsize=32)
def _causal(length: int, dtype: torch.dtype) -> Tensor:
    return _additive(torch.ones(length, length, dtype=torch.bool).tril()).to(dtype)


def attend_full(q_HNQ: Tensor, k_KNQ: Tensor, v_KNC: Tensor, segments: Segments) -> Tensor:
    """Return causal attention within each segment, [heads, N, value width]."""
    q_KGNQ = q_HNQ.unflatten(0, (len(k_KNQ), -1))
    parts = zip(
        q_KGNQ.split(segments.lengths, 2),
        *(x.split(segments.lengths, 1) for x in (k_KNQ, v_KNC)),
        strict=True,
    )
    return torch.cat([_attend_segment(*each) for each in parts], dim=1)


def _attend_segment(q_KGTQ: Tensor, k_KTQ: Tensor, v_KTC: Tensor) -> Tensor:
    """Return attention of one segment; the query heads of a KV head are more rows of it."""
    groups, length = q_KGTQ.shape[1:3]
    mask = _causal(length, k_KTQ.dtype).repeat(groups, 1)[None]
    q_1KRQ = q_KGTQ.flatten(1, 2)[None]
    output = MaskedAttention.apply(q_1KRQ, k_KTQ[None], v_KTC[None], mask, None)
    return output[0].unflatten(1, (groups, length)).flatten(0, 1)


def attend_sliding(
    q_HNQ: Tensor, k_HNQ: Tensor, v_HNC: Tensor, sink_H: Tensor, segments: Segments
) -> Tensor:
    """Return sliding-window attention with sinks within each segment, [heads, N, value width]."""
    q = q_HNQ.unflatten(1, (-1, segments.block))
    k, v = (_with_block_before(x, segments.block) for x in (k_HNQ, v_HNC))
    mask = segments.mask_BQK.to(q.dtype)
    return MaskedAttention.apply(q, k, v, mask, sink_H).flatten(1, 2)


def _with_block_before(x_HNC: Tensor, block: int) -> Tensor:
    blocks = x_HNC.unflatten(1, (-1, block))
    before = functional.pad(blocks[:, :-1], (0, 0, 0, 0, 1, 0))
    return torch.cat([before, blocks], dim=2)


class MaskedAttention(torch.autograd.Function):
    """Attention of batches, one after the other: [H, batch, queries or keys, width].

    A sink takes weight and gives no value.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, sink: Any) -> Tensor:
        """Return the weighted values."""
        outputs, weights, sink_weights = [], [], []
        for head, (q_h, k_h, v_h) in enumerate(zip(q, k, v, strict=True)):
            scores = (q_h @ k_h.mT).add_(mask)
            weight = scores.softmax(-1)
            if sink is not None:
                sink_weight = _sink_weight(scores, weight, sink[head])
                weight.mul_(1 - sink_weight.to(weight.dtype))
                sink_weights.append(sink_weight)
            outputs.append(weight @ v_h)
            weights.append(weight)
        output = torch.stack(outputs)
        ctx.save_for_backward(q, k, v, output, *weights, *sink_weights)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of q, k, v and the sinks."""
        q, k, v, output, *rest = ctx.saved_tensors
        weights, sink_weights = rest[: len(q)], rest[len(q) :]
        total = (gradient * output).sum(-1, keepdim=True, dtype=torch.float32)
        to_q, to_k, to_v = (torch.empty_like(x) for x in (q, k, v))
        for head, weight in enumerate(weights):
            to_v[head] = weight.mT @ gradient[head]
            to_scores = gradient[head] @ v[head].mT
            to_scores.sub_(total[head].to(weight.dtype)).mul_(weight)
            to_q[head] = to_scores @ k[head]
            to_k[head] = to_scores.mT @ q[head]
        to_sink = [-(each * total[head]).sum() for head, each in enumerate(sink_weights)]
        return to_q, to_k, to_v, None, torch.stack(to_sink) if to_sink else None


def _sink_weight(scores: Tensor, weight: Tensor, sink: Tensor) -> Tensor:
    """Return the share of a sink beside a softmax, in float32."""
    best, share = (x.amax(-1, keepdim=True).float() for x in (scores, weight))
    return (sink.float() - best + share.log()).sigmoid()
