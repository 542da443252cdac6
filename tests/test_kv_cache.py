"""Hybrid KV cache: bytes, slot mapping, and validation of steps."""

import re
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash import MiMoConfig, kv_cache
from mimo_v2_flash.config import NO_WINDOW
from mimo_v2_flash.kv_cache import HybridCache, new_cache
from mimo_v2_flash.kv_pages import GIVES_BACK
from mimo_v2_flash.kv_slots import MAX_DRAFT_TOKENS, slots_per_sequence
from tests.support.rows import ragged

MIMO = MiMoConfig().layers
FULL, SLIDING = MIMO[0], MIMO[1]


def cache_of(window=4, *, batch_size=1, max_length=20, **options) -> HybridCache:
    """Return the cache of one full and one sliding layer."""
    narrow = replace(SLIDING, attention=replace(SLIDING.attention, window=window))
    return new_cache((FULL, narrow), batch_size=batch_size, max_length=max_length, **options)


def stepped(cache: HybridCache, *position_BT) -> HybridCache:
    """Return `cache` after steps at these positions; keys and values are not written."""
    for step_BT in map(np.array, position_BT):
        start_B, count_B = cache.check_positions(step_BT)
        cache.begin_step(start_B, count_B)
        cache.finish_step(count_B)
    return cache


def stored_bytes(max_length: int, *, sliding: bool) -> int:
    """Return the bytes of keys and values in MiMo's full or sliding layers, in bfloat16."""
    cache = new_cache(MIMO, batch_size=1, max_length=max_length, dtype=ml_dtypes.bfloat16)
    layers = zip(cache.layers, MIMO, strict=True)
    return sum(
        layer.k_ZKQ.nbytes + layer.v_ZKC.nbytes
        for layer, spec in layers
        if (spec.attention.window != NO_WINDOW) == sliding
    )


def test_a_token_costs_23040_bytes_in_the_full_layers():
    assert stored_bytes(1001, sliding=False) - stored_bytes(1000, sliding=False) == 23_040


def test_a_sequence_costs_26_megabytes_in_the_rings_however_long_it_is():
    slot = 39 * 8 * (192 + 128) * 2
    assert stored_bytes(500, sliding=True) == stored_bytes(262_144, sliding=True)
    assert stored_bytes(500, sliding=True) - slot == 132 * slot == 26_357_760  # but for trash


def test_its_bytes_are_counted_with_positions():
    cache = cache_of(window=4, batch_size=2, max_length=20)
    row = {"full": 4 * (4 * 320 + 1), "sliding": 4 * (8 * 320 + 1)}
    assert cache.nbytes == (2 * 20 + 1) * row["full"] + (2 * 7 + 1) * row["sliding"]


@pytest.mark.parametrize(
    ("window", "max_length", "slots"),
    [(129, 262_144, 132), (129, 100, 100), (1, 9, 4), (NO_WINDOW, 262_144, 262_144)],
)
def test_a_ring_holds_a_window_and_a_draft_but_no_more_than_a_sequence(window, max_length, slots):
    assert slots_per_sequence(window, max_length) == slots


def test_a_new_cache_is_empty():
    cache = cache_of(window=4, batch_size=2, max_length=20, dtype=ml_dtypes.bfloat16)
    assert (cache.batch_size, cache.slots, cache.window) == (2, (20, 7), 4)
    assert cache.length_B.tolist() == cache.oldest_B.tolist() == [0, 0]
    for layer, slots in zip(cache.layers, cache.slots, strict=True):
        assert layer.k_ZKQ.dtype == layer.v_ZKC.dtype == ml_dtypes.bfloat16
        assert layer.position_Z.tolist() == [-1] * (2 * slots + 1)


def test_a_rank_holds_its_rows_alone_and_knows_the_length_of_all():
    rank_rows = slice(0, 2), slice(2, 4), slice(4, 5), slice(5, 5)
    cache = cache_of(batch_size=5, rank_rows=rank_rows, rank=1)
    for layer, slots in zip(cache.layers, cache.slots, strict=True):
        assert [len(part) for part in layer] == [2 * slots + 1] * 3
    assert len(cache.length_B) == cache.batch_size == 5
    assert (cache.local_rows, cache.sequences) == (slice(2, 4), 2)
    empty = cache_of(batch_size=5, rank_rows=rank_rows, rank=3)
    assert [len(part) for part in empty.layers[0]] == [1] * 3
    assert cache_of(batch_size=5, rank_rows=rank_rows, rank=3, sequences=2).sequences == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size 0 and max_length 20"),
        ({"max_length": 0}, "batch_size 1 and max_length 0"),
        ({"dtype": np.float64}, "fp8 or int8, got float64"),
        ({"dtype": np.int32}, "fp8 or int8, got int32"),
    ],
)
def test_a_cache_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        cache_of(**options)


def test_a_view_shares_everything_and_sees_its_sequences_alone():
    cache = stepped(cache_of(batch_size=4), [[0, -1], [0, 1], [0, 1], [-1, -1]])
    view = cache.view(1, 3)
    assert (view.batch_size, view.length_B.tolist(), view.first_row) == (2, [2, 2], 1)
    assert view.layers is cache.layers
    stepped(view, [[2, 3], [-1, -1]])
    assert cache.length_B.tolist() == [1, 4, 2, 0]
    assert view.view(1, 2).first_row == 2
    stepped(view.view(0, 1), [range(4, 16)])
    assert (cache.length_B.tolist(), cache.oldest_B.tolist()) == ([1, 16, 2, 0], [0, 9, 0, 0])


@pytest.mark.parametrize("rank", range(3))
def test_a_view_has_what_is_left_of_each_ranks_rows(rank):
    rank_rows = slice(0, 3), slice(3, 5), slice(5, 6)
    view = cache_of(batch_size=6, rank_rows=rank_rows, rank=rank).view(1, 4)
    assert view.rank_rows == (slice(0, 2), slice(2, 3), slice(3, 3))
    assert view.first_row == (1 if rank == 0 else 0)


@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (1, 1), (2, 1), (0, 3)])
def test_a_view_of_sequences_that_are_not_there_is_refused(start, stop):
    with pytest.raises(ValueError, match=rf"view\({start}, {stop}\): the cache has 2 sequences"):
        cache_of(batch_size=2).view(start, stop)


@pytest.mark.parametrize(
    ("position_BT", "message"),
    [
        ([[3, 4]], r"\(1, 2\), the cache holds 2 sequences"),
        ([3, 3], r"\(2,\), the cache holds 2 sequences"),
        ([[3, 4], [4, 4]], r"row 1, column 1 is 4, expected consecutive"),
        ([[3, 5], [4, 5]], r"row 0, column 1 is 5, expected consecutive"),
        ([[3, 2], [4, 5]], r"row 0, column 1 is 2, expected consecutive"),
        ([[3, 4], [-1, 4]], r"row 1, column 1 is 4, expected .* then -1 for padding"),
        ([[3, -2], [4, 5]], r"row 0, column 1 is -2, expected .* then -1 for padding"),
        ([[4, 5], [4, 5]], "row 0 starts at position 4, but the cache holds 3 tokens"),
        ([[3, 4, -1], [4, 5, 6]], r"row 1 reaches position 6, the cache has room for 6 tokens"),
    ],
)
def test_a_step_that_does_not_fit_is_refused_and_changes_nothing(position_BT, message):
    cache = stepped(cache_of(batch_size=2, max_length=6), [[0, 1, 2, -1], [0, 1, 2, 3]])
    with pytest.raises(ValueError, match=message):
        cache.check_positions(np.array(position_BT))
    assert (cache.length_B.tolist(), cache.oldest_B.tolist()) == ([3, 4], [0, 0])


def test_a_row_of_padding_keeps_what_it_has():
    cache = stepped(cache_of(batch_size=2), [[0, 1], [0, -1]], [[-1], [1]], [[-1], [-1]])
    assert cache.length_B.tolist() == [2, 2]


def test_a_row_that_starts_again_has_forgotten():
    cache = stepped(cache_of(), [range(15)])
    assert (cache.length_B.tolist(), cache.oldest_B.tolist()) == ([15], [8])
    stepped(cache, [[0, 1]])
    assert (cache.length_B.tolist(), cache.oldest_B.tolist()) == ([2], [0])
    with pytest.raises(ValueError, match="starts at position 3, but the cache holds 2"):
        cache.check_positions(np.array([[3]]))


def test_a_draft_can_be_taken_back_and_not_much_more():
    cache = stepped(cache_of(), [range(15)])
    cache.check_positions(np.array([[15 - MAX_DRAFT_TOKENS]]))
    message = "sliding layers hold positions from 8 on and need 7: at most 3 tokens"
    with pytest.raises(ValueError, match=message):
        cache.check_positions(np.array([[10]]))


@given(
    st.integers(1, 5),
    st.integers(1, 25),
    st.lists(st.tuples(st.integers(0, 25), st.integers(0, 12)), max_size=12),
)
def test_a_step_is_refused_only_if_a_key_that_it_needs_is_gone(window, max_length, steps):
    cache = cache_of(window, max_length=max_length)
    ring, stored = slots_per_sequence(window, max_length), {}  # slot -> position
    for start, count in steps:
        if start > cache.length_B[0] or start + count > max_length:
            continue
        _, position_BT = ragged([[0] * count], [start])
        needed = set(range(max(0, start - window + 1), start)) if count else set()
        if needed <= set(stored.values()):
            stepped(cache, position_BT)
            stored |= {p % ring: p for p in range(start, start + count)}
        else:
            with pytest.raises(ValueError, match="sliding layers hold positions from"):
                cache.check_positions(position_BT)


def fill(cache: HybridCache, row: int, count: int) -> None:
    """Write NaN as the keys and values of `count` tokens of this rank's sequence `row`."""
    for layer, slots in zip(cache.layers, cache.slots, strict=True):
        for position in range(count):
            for part, value in zip(layer, (np.nan, np.nan, position), strict=True):
                part[row * slots + position % slots] = value


@given(st.data())
def test_what_is_discarded_leaves_no_number_behind(data):
    """A view of a rank's sequences: slots from the start on are as new, all others as before."""
    cache = cache_of(window=4, batch_size=4, rank_rows=(slice(0, 1), slice(1, 4)), rank=1)
    counts = data.draw(st.lists(st.integers(1, 9), min_size=4, max_size=4))
    stepped(cache, ragged([[0] * count for count in counts], [0] * 4)[1])
    for row, count in enumerate(counts[1:]):
        fill(cache, row, count)
    before = [tuple(np.array(part) for part in layer) for layer in cache.layers]
    start_B = np.array([counts[0], counts[1], data.draw(st.integers(0, counts[2])), counts[3]])
    first = data.draw(st.integers(0, 2))
    cache.view(first, 4).discard(start_B[first:], lambda tree: tree)
    assert cache.length_B.tolist() == start_B.tolist()
    assert (cache.oldest_B <= cache.length_B).all()
    for layer, old, slots in zip(cache.layers, before, cache.slots, strict=True):
        row_Z = np.append(np.repeat(np.arange(3), slots), 3)
        is_discarded_Z = old[2] >= np.append(start_B[1:], 99)[row_Z]
        for part, kept, empty in zip(layer, old, (0, 0, -1), strict=True):
            np.testing.assert_array_equal(part[~is_discarded_Z], kept[~is_discarded_Z])
            assert (part[is_discarded_Z] == empty).all()


@pytest.mark.parametrize("rows", [("a", None), (0, None), (0.0, 1), (1, 1), (-1, 1), (0, 3)])
def test_rows_that_are_no_view_are_named(rows):
    with pytest.raises(ValueError, match=re.escape(f"view{rows!r}: the cache has 2 sequences")):
        cache_of(batch_size=2).view(*rows)


def test_a_wrong_position_is_named_by_its_column_however_long_the_row():
    cache = cache_of(max_length=500)
    position_1T = np.arange(400)[None]
    position_1T[0, 321] = 7
    with pytest.raises(ValueError, match="row 0, column 321 is 7, expected consecutive") as caught:
        cache.check_positions(position_1T)
    assert len(str(caught.value)) < 150


only_linux = pytest.mark.skipif(not GIVES_BACK, reason="only Linux takes pages back at once")


def written(cache: HybridCache, row: int, length: int) -> None:
    """Fill the slots of a row that holds `length` tokens."""
    for index, layer in enumerate(cache.layers):
        slots = cache.slots[index]
        position_T = np.arange(max(0, length - slots), length)
        row_T = cache.flat_rows(index, row, position_T)
        layer.k_ZKQ[row_T], layer.v_ZKC[row_T], layer.position_Z[row_T] = 3, 4, position_T
    cache.length_B[row], cache.oldest_B[row] = length, max(0, length - min(cache.slots))


@only_linux
@given(st.integers(0, 2), st.integers(1, 30), st.integers(0, 30))
def test_a_row_is_given_back_from_a_token_on(row, length, start):
    """Its rings are given back with its first token; other rows and ranks have what they had."""
    rank_rows = slice(0, 1), slice(1, 4)
    cache = cache_of(batch_size=4, max_length=30, rank_rows=rank_rows, rank=1)
    expected = cache_of(batch_size=4, max_length=30, rank_rows=rank_rows, rank=1)
    row, start = row + 1, min(start, length)
    for other in range(1, 4):
        written(cache, other, length)
        written(expected, other, start if other == row else length)
    if start:  # what the ring holds stays
        for part, other in zip(expected.layers[1], cache.layers[1], strict=True):
            part[:] = other
    assert cache.give_back(row, start, length)
    assert cache.length_B.tolist() == expected.length_B.tolist()
    assert cache.oldest_B[row] <= start
    for actual, layer in zip(cache.layers, expected.layers, strict=True):
        for part, other in zip(actual, layer, strict=True):
            np.testing.assert_array_equal(part, other)


@only_linux
def test_every_rank_knows_that_a_row_is_empty():
    rank_rows = slice(0, 1), slice(1, 2)
    caches = [cache_of(batch_size=2, rank_rows=rank_rows, rank=rank) for rank in range(2)]
    for cache in caches:
        written(cache, cache.rank, 20)
        cache.length_B[:], cache.oldest_B[:] = 20, 13
        assert cache.give_back(1, 0, 20)
        assert (cache.length_B.tolist(), cache.oldest_B.tolist()) == ([20, 0], [13, 0])
    zero, one = (cache.layers[0].k_ZKQ for cache in caches)
    assert zero[:20].all()
    assert not one.any()


def test_where_no_memory_is_taken_back_a_row_stays(monkeypatch):
    monkeypatch.setattr(kv_cache, "GIVES_BACK", False)
    cache = cache_of(batch_size=2)
    written(cache, 1, 20)
    before = [[part.copy() for part in layer] for layer in cache.layers]
    assert not cache.give_back(1, 0, 20)
    assert cache.length_B.tolist() == [0, 20]
    for layer, parts in zip(cache.layers, before, strict=True):
        for part, other in zip(layer, parts, strict=True):
            np.testing.assert_array_equal(part, other)
