"""kv_bytes: what is counted is what the arrays have."""

from dataclasses import replace

import ml_dtypes
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.kv_bytes import KVBytes
from mimo_v2_flash.kv_cache import new_cache
from tests.support.drawn import CODED, cached

MIMO = MiMoConfig().layers
FULL, SLIDING = MIMO[0], MIMO[1]


def layer(kind, window: int, heads: int):
    attention = replace(kind.attention, num_kv_heads=heads)
    return replace(
        kind, attention=replace(attention, window=window) if kind is SLIDING else attention
    )


drawn_layers = st.lists(
    st.builds(layer, st.sampled_from([FULL, SLIDING]), st.just(5), st.sampled_from([1, 4])),
    min_size=1,
    max_size=4,
).map(tuple)


@given(drawn_layers, st.integers(0, 4), st.integers(1, 30), cached, st.integers(0, 20))
def test_a_cache_that_is_full_is_counted_to_the_byte(layers, sequences, length, dtype, captured):
    cache = new_cache(
        layers,
        batch_size=5,
        sequences=sequences,
        max_length=length,
        dtype=dtype,
        captured=captured,
    )
    assert cache.kv_bytes.total(sequences, length) == cache.nbytes


@given(drawn_layers, st.integers(1, 3), st.integers(8, 30), cached, st.data())
def test_a_row_counts_its_tokens_and_whole_rings(layers, sequences, length, dtype, data):
    tokens = data.draw(st.integers(1, length))
    cache = new_cache(layers, batch_size=sequences, max_length=length, dtype=dtype)
    expected = 0
    for slots, (k_ZKQ, v_ZKC, _) in zip(cache.slots, cache.layers, strict=True):
        count = tokens if slots == length else slots
        expected += k_ZKQ[:count].nbytes + v_ZKC[:count].nbytes
    assert cache.kv_bytes.row(tokens) == expected
    assert cache.kv_bytes.row(0) == 0


def test_mimo_has_23040_bytes_per_token_and_26_megabytes_per_sequence_and_half_in_8_bits():
    sizes = KVBytes.of(MIMO, 32, 262_144, np.dtype(ml_dtypes.bfloat16))
    assert (sizes.token, sizes.sequence) == (23_040, 26_357_760)
    positions = 4 * (32 * (9 * 262_144 + 39 * 132) + 48)
    assert sizes.fixed == positions + 23_040 + 39 * 8 * 320 * 2
    for dtype in CODED:  # two scales of two bytes for each head
        sizes = KVBytes.of(MIMO, 32, 262_144, dtype)
        assert (sizes.token, sizes.sequence) == (9 * 4 * 324, 39 * 132 * 8 * 324)
