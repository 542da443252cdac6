"""Steps on views of a cache in use: rings that have wrapped, dtypes of a cache, NaN elsewhere."""

import numpy as np

from mimo_v2_flash.cpu.kv_codes import decode, encode
from mimo_v2_flash.kernels.kv_cache import KVCache, prior_tokens
from tests.support.steps import Step, random_step

KEYS_AND_VALUES = "k_BTKQ", "v_BTKC", "prior_k_BSKQ", "prior_v_BSKC"


def stored(step: Step, dtype) -> Step:
    """Return a step whose keys and values are as in a cache of `dtype`."""
    dtype = np.dtype(dtype)
    return step._replace(**{name: encode(getattr(step, name), dtype) for name in KEYS_AND_VALUES})


def decoded(step: Step) -> Step:
    """Return a step whose keys and values are the numbers that a cache holds."""
    return step._replace(**{name: decode(getattr(step, name)) for name in KEYS_AND_VALUES})


def ring_step(seed, starts, slots: int, kv_length: int, *, window: int, T=1, **sizes) -> Step:
    """Return T tokens of each sequence, which has `starts[b]` cached ones, on views of a cache.

    Sequences that start at -1 are idle. Every row that no key may be read from is NaN.
    """
    counts = [T * (start >= 0) for start in starts]
    step = random_step(seed, starts=starts, counts=counts, T=T, **sizes)
    (_, _, K, Q), C = step.k_BTKQ.shape, step.v_BTKC.shape[3]
    generator, rows = np.random.default_rng(seed), len(starts) * slots + 1
    k_ZKQ, v_ZKC = (np.full((rows, K, width), np.nan, np.float32) for width in (Q, C))
    position_Z = np.full(rows, -1, np.int32)
    for b, start in enumerate(starts):
        for position in range(max(0, start - slots), start):
            row = b * slots + position % slots
            position_Z[row] = position
            if start - position < window:
                k_ZKQ[row], v_ZKC[row] = (generator.standard_normal((K, n)) for n in (Q, C))
    cache = KVCache(k_ZKQ, v_ZKC, position_Z)
    prior = prior_tokens(cache, slots=slots, rows=range(len(starts)), kv_length=kv_length)
    return Step(*step[:4], *prior, step.sink_H)
