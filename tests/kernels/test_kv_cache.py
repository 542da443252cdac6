"""Tests of kv_cache: reads return the writes, padding goes to the trash row, reads are views."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.kernels.kv_cache import (
    KVCache,
    prior_tokens,
    put_tokens,
    take_prior_tokens,
    take_tokens,
    write_tokens,
)
from mimo_v2_flash.reference import kv_cache as oracle
from tests.support.drawn import FLOATS, floats, seeds
from tests.support.kinds import every_kind, host_kinds
from tests.support.mistakes import mistakes

B, S, K, Q, C = 2, 5, 2, 4, 3
TRASH = B * S


def empty_cache(dtype=np.float32) -> KVCache:
    return KVCache(
        np.zeros((TRASH + 1, K, Q), dtype),
        np.zeros((TRASH + 1, K, C), dtype),
        np.full(TRASH + 1, -1, np.int32),
    )


def tokens(position_BT, *, seed=0, dtype=np.float32) -> dict:
    """Return arguments of `write_tokens`; each row's last S tokens go to slot position mod S."""
    position_BT = np.array(position_BT, np.int32)
    sequence_B1, T = np.arange(B)[:, None], position_BT.shape[1]
    oldest_B1 = np.maximum(np.max(position_BT, axis=1, keepdims=True) - S + 1, 0)
    slot_mapping_BT = np.where(position_BT < oldest_B1, TRASH, sequence_B1 * S + position_BT % S)
    normal = np.random.default_rng(seed).standard_normal
    return {
        "k_NKQ": normal((B * T, K, Q)).astype(dtype),
        "v_NKC": normal((B * T, K, C)).astype(dtype),
        "position_N": position_BT.ravel(),
        "slot_mapping_N": slot_mapping_BT.ravel().astype(np.int32),
    }


GOOD = tokens([[0, 1, 2], [7, 8, -1]])


@every_kind
def test_what_is_written_is_what_numpy_writes(on):
    actual, expected = empty_cache(np.float32), empty_cache(np.float32)
    on(write_tokens)(actual, **GOOD)
    write_tokens(expected, **GOOD)
    assert np.any(expected.position_Z >= 0)
    for part, expected_part in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(part[:-1], expected_part[:-1])  # the last row is trash


@host_kinds  # a program cannot return the empty tensors of kv_length 0
@given(
    st.lists(st.integers(0, 20), min_size=B, max_size=B),
    st.integers(1, S + 3),
    floats,
    floats,
    st.data(),
    seeds,
)
def test_it_is_its_oracle(on, starts, T, dtype, cache_dtype, data, seed):
    counts = [data.draw(st.integers(0, T)) for _ in range(B)]
    position_BT = [
        [start + t if t < count else -1 for t in range(T)]
        for start, count in zip(starts, counts, strict=True)
    ]
    step = tokens(position_BT, seed=seed, dtype=dtype)
    actual, expected = empty_cache(cache_dtype), empty_cache(cache_dtype)
    on(write_tokens)(actual, **step)
    oracle.write_tokens(expected, **step)
    rows = data.draw(st.sampled_from([range(B), range(1), range(1, B)]))
    for kv_length in (0, 3, S):
        reads = {"slots": S, "rows": rows, "kv_length": kv_length}
        read = on(prior_tokens)(actual, **reads)
        written = oracle.prior_tokens(expected, **reads)
        for part, expected_part in zip(read, written, strict=True):
            np.testing.assert_array_equal(part.astype(np.float64), expected_part)
    assert actual.position_Z[TRASH] == -1


def test_what_is_written_is_read_at_its_slot():
    cache, step = empty_cache(), GOOD
    write_tokens(cache, **step)
    prior = prior_tokens(cache, slots=S, rows=range(B), kv_length=S)
    np.testing.assert_array_equal(prior.position_BS, [[0, 1, 2, -1, -1], [-1, -1, 7, 8, -1]])
    np.testing.assert_array_equal(prior.k_BSKQ[0, :3], step["k_NKQ"][:3])
    np.testing.assert_array_equal(prior.v_BSKC[1, 2:4], step["v_NKC"][3:5])
    assert not prior.k_BSKQ[0, 3:].any()


def test_the_trash_row_stays_empty_whatever_is_written_there():
    cache, step = empty_cache(), tokens([[3], [4]])
    step["slot_mapping_N"][:] = TRASH
    write_tokens(cache, **step)
    assert (cache.position_Z == -1).all()
    assert not cache.k_ZKQ[:TRASH].any()
    assert not cache.v_ZKC[:TRASH].any()


def test_padding_leaves_the_cache_as_it_was():
    cache = empty_cache()
    write_tokens(cache, **GOOD)
    before = [part[:TRASH].copy() for part in cache]
    write_tokens(cache, **tokens([[-1, -1], [-1, -1]], seed=1))
    for part, kept in zip(cache, before, strict=True):
        np.testing.assert_array_equal(part[:TRASH], kept)


def test_a_ring_holds_the_last_tokens():
    cache = empty_cache()
    for position in range(12):
        write_tokens(cache, **tokens([[position], [position + 1]], seed=position))
    prior = prior_tokens(cache, slots=S, rows=range(B), kv_length=S)
    np.testing.assert_array_equal(prior.position_BS, [[10, 11, 7, 8, 9], [10, 11, 12, 8, 9]])
    np.testing.assert_array_equal(prior.k_BSKQ[0, 1], tokens([[11], [12]], seed=11)["k_NKQ"][0])


def test_a_draft_is_overwritten_by_the_token_that_took_its_place():
    cache = empty_cache()
    write_tokens(cache, **tokens([[0, 1, 2], [0, 1, 2]], seed=1))
    kept = tokens([[1], [1]], seed=2)
    write_tokens(cache, **kept)
    prior = prior_tokens(cache, slots=S, rows=range(B), kv_length=3)
    np.testing.assert_array_equal(prior.v_BSKC[:, 1], kept["v_NKC"])
    np.testing.assert_array_equal(prior.position_BS, [[0, 1, 2]] * B)


@pytest.mark.parametrize("kv_length", [0, 1, S])
def test_prior_tokens_are_views(kv_length):
    cache = empty_cache()
    prior = prior_tokens(cache, slots=S, rows=range(B), kv_length=kv_length)
    for view, part in zip(prior, cache, strict=True):
        assert view.shape[:2] == (B, kv_length)
        assert view.base is not None
        assert not kv_length or np.shares_memory(view, part)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_tokens_are_cast_to_the_dtype_of_the_cache(dtype):
    cache, step = empty_cache(ml_dtypes.bfloat16), tokens([[0], [0]], dtype=dtype)
    write_tokens(cache, **step)
    np.testing.assert_array_equal(cache.k_ZKQ[0], step["k_NKQ"][0].astype(ml_dtypes.bfloat16))
    assert cache.k_ZKQ.dtype == cache.v_ZKC.dtype == ml_dtypes.bfloat16
    assert cache.position_Z.dtype == np.int32


@pytest.mark.parametrize(("name", "wrong"), mistakes(**GOOD))
def test_a_mistaken_argument_is_named(name, wrong):
    with pytest.raises(ValueError, match=rf"write_tokens: .*\b{name}\b"):
        write_tokens(empty_cache(), **(GOOD | {name: wrong}))


def test_tokens_of_another_width_than_the_cache_are_refused():
    wide = np.zeros((B * 3, K, Q + 1), np.float32)
    with pytest.raises(ValueError, match="axis Q is 4 in k_ZKQ"):
        write_tokens(empty_cache(), **(GOOD | {"k_NKQ": wide}))


@pytest.mark.parametrize(
    ("slots", "rows", "kv_length"),
    [
        (0, range(B), 0),
        (3, range(B), 1),
        (S, range(B + 1), 1),
        (S, range(-1, B), 1),
        (S, range(B), S + 1),
        (S, range(B), -1),
    ],
)
def test_slots_that_are_not_there_are_refused(slots, rows, kv_length):
    with pytest.raises(ValueError, match="prior_tokens"):
        prior_tokens(empty_cache(), slots=slots, rows=rows, kv_length=kv_length)


@every_kind
def test_sequences_may_be_data(on):
    cache = empty_cache()
    write_tokens(cache, **GOOD)
    expected = prior_tokens(cache, slots=S, rows=range(B), kv_length=3)
    for rows in ([1], [1, 0], [0, 0]):
        taken = on(take_prior_tokens)(cache, np.array(rows, np.int32), slots=S, kv_length=3)
        for part, expected_part in zip(taken, expected, strict=True):
            np.testing.assert_array_equal(part, expected_part[rows])


def put_and_return_nothing(caches, tokens, position_N, row_N) -> None:
    """Put tokens as a kernel whose arguments `every_kind` reads back, since it has no output."""
    put_tokens(caches, tokens, position_N, row_N)


@every_kind
@given(st.permutations(range(TRASH)), st.integers(0, 4), floats, seeds)
def test_tokens_that_are_copied_are_where_they_are_put(on, rows, padding, dtype, seed):
    """The rows are data; those of the trash row, whatever their number, are not written."""
    wide = KVCache(*(np.concatenate([part] * 2) for part in empty_cache(dtype)))
    caches, random = (empty_cache(dtype), wide), np.random.default_rng(seed)
    for cache in caches:
        for part in cache[:2]:
            part[...] = random.standard_normal(part.shape)
    before = [KVCache(*(part.copy() for part in cache)) for cache in caches]
    row_N = np.array(rows[:4], np.int32)
    tokens = on(take_tokens)(caches, row_N)
    for (k_NKQ, v_NKC), cache in zip(tokens, before, strict=True):
        np.testing.assert_array_equal(k_NKQ, cache.k_ZKQ[row_N])
        np.testing.assert_array_equal(v_NKC, cache.v_ZKC[row_N])
    target_N, position_N = np.array(rows[4:8], np.int32), np.arange(30, 34, dtype=np.int32)
    target_N[4 - padding :] = TRASH
    on(put_and_return_nothing)(caches[:1], tokens[:1], position_N, target_N)
    (cache, _), kept_N, row_N = caches, target_N[: 4 - padding], row_N[: 4 - padding]
    assert cache.position_Z[kept_N].tolist() == position_N[: 4 - padding].tolist()
    is_other_Z = np.ones(TRASH + 1, bool)
    is_other_Z[[*kept_N, TRASH]] = False
    assert set(cache.position_Z[is_other_Z].tolist()) == {-1} == {cache.position_Z[TRASH]}
    for part, old in zip(cache[:2], before[0][:2], strict=True):
        np.testing.assert_array_equal(part[kept_N], old[row_N])
        np.testing.assert_array_equal(part[is_other_Z], old[is_other_Z])


def test_nothing_is_written_if_values_do_not_fit():
    cache, step = empty_cache(), tokens([[0], [0]])
    step["v_NKC"] = step["v_NKC"][..., :-1].copy()
    with pytest.raises(ValueError, match="v_NKC"):
        write_tokens(cache, **step)
    assert not cache.k_ZKQ.any()
