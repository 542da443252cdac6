"""Inputs of the attention kernels: ragged rows of tokens, and the prior contents of a cache."""

from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from mimo_v2_flash.kernels.softmax import NO_SINK
from tests.support.drawn import floats, seeds


class Step(NamedTuple):
    """The arguments of an attention kernel, in its order."""

    q_BTHQ: Any
    k_BTKQ: Any
    v_BTKC: Any
    position_BT: Any
    prior_k_BSKQ: Any
    prior_v_BSKC: Any
    prior_position_BS: Any
    sink_H: Any


def positions(starts, counts, length: int) -> np.ndarray:
    """Return each row's positions: `counts[b]` from `starts[b]` on, then padding."""
    index_BT = np.arange(length)[None]
    start_B1, count_B1 = np.reshape(starts, (-1, 1)), np.reshape(counts, (-1, 1))
    return np.where(index_BT < count_B1, start_B1 + index_BT, -1).astype(np.int32)


def prior_positions(generator, starts, slots: int) -> np.ndarray:
    """Return the positions in each row's cache slots: unordered, some empty, some stale drafts."""
    rows = [generator.permutation(max(start + 3, slots))[:slots] for start in starts]
    position_BS = np.reshape(rows, (len(starts), slots)).astype(np.int32)
    return np.where(generator.random(position_BS.shape) < 0.2, np.int32(-1), position_BS)


def random_step(
    seed=0, *, starts=(0,), counts=None, T=6, S=0, K=2, G=2, Q=8, C=4, dtype=np.float32, sink=None
) -> Step:
    """Return rows of `counts` tokens from `starts` on; `sink` None is a random one per head."""
    generator = np.random.default_rng(seed)
    B, counts = len(starts), (T,) * len(starts) if counts is None else counts

    def normal(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape).astype(dtype)

    return Step(
        q_BTHQ=normal(B, T, K * G, Q),
        k_BTKQ=normal(B, T, K, Q),
        v_BTKC=normal(B, T, K, C),
        position_BT=positions(starts, counts, T),
        prior_k_BSKQ=normal(B, S, K, Q),
        prior_v_BSKC=normal(B, S, K, C),
        prior_position_BS=prior_positions(generator, starts, S),
        sink_H=normal(K * G) if sink is None else np.full(K * G, sink, dtype),
    )


@st.composite
def steps(draw, *, dtypes=floats) -> Step:
    """Draw a step: any mixture of prefill, chunks, decoding, drafts and padding."""
    B, T = draw(st.integers(1, 3)), draw(st.integers(1, 7))
    small = st.integers(1, 3)
    return random_step(
        draw(seeds),
        starts=draw(st.lists(st.integers(0, 12), min_size=B, max_size=B)),
        counts=draw(st.lists(st.integers(0, T), min_size=B, max_size=B)),
        T=T,
        S=draw(st.integers(0, 12)),
        K=draw(small),
        G=draw(small),
        Q=draw(st.sampled_from([2, 6, 16])),
        C=draw(st.integers(1, 5)),
        dtype=draw(dtypes),
        sink=draw(st.sampled_from([None, None, NO_SINK])),
    )
