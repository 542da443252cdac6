"""kv_transfer: tokens lie where they were copied to, and nothing else has changed."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.cpu.kv_codes import channels, encode
from mimo_v2_flash.kernels.kv_cache import KVCache, put_tokens, take_tokens
from mimo_v2_flash.kv_cache import HybridCache, new_cache
from mimo_v2_flash.kv_transfer import KVTransfer
from tests.support.drawn import cached, seeds

FULL, SLIDING = MiMoConfig().layers[:2]
SMALL = {"num_kv_heads": 1, "head_dim": 2, "v_head_dim": 1}
LENGTH, ROWS = 20, 3
program_rows = st.sampled_from([None, 1, 3, 8, 32])


class Recorded:
    """A transfer on NumPy that records the shapes of its programs' calls."""

    def __init__(self, rows: int | None) -> None:
        self.shapes: set[int] = set()
        self.transfer = KVTransfer(self._take, self._put, rows)

    def _take(self, caches, row_N):
        assert row_N.dtype == np.int32
        self.shapes.add(len(row_N))
        return take_tokens(caches, row_N)

    def _put(self, caches, tokens, position_N, row_N):
        assert position_N.dtype == row_N.dtype == np.int32
        self.shapes |= {len(part) for pair in tokens for part in pair} | {len(row_N)}
        return put_tokens(caches, tokens, position_N, row_N)


def cache_of(transfer: KVTransfer, seed: int, *, dtype=np.float32, **options) -> HybridCache:
    """Return a cache of full and sliding layers whose every slot has numbers of its own."""
    full = replace(FULL, attention=replace(FULL.attention, **SMALL))
    sliding = replace(SLIDING, attention=replace(SLIDING.attention, window=4, **SMALL))
    layers = full, sliding, sliding
    cache = new_cache(layers, batch_size=ROWS, max_length=LENGTH, dtype=dtype, **options)
    random = np.random.default_rng(seed)
    for layer in cache.layers:
        for part in layer[:2]:
            part[...] = encode(
                random.standard_normal((*part.shape[:2], channels(part))), part.dtype
            )
        layer.position_Z[:-1] = random.integers(-1, LENGTH, len(layer.position_Z) - 1)
    return replace(cache, transfer=transfer)


def snapshot(cache: HybridCache) -> list[KVCache]:
    return [KVCache(*(part.copy() for part in layer)) for layer in cache.layers]


def assert_unchanged(cache: HybridCache, before: list[KVCache], written: list[np.ndarray]) -> None:
    """Assert that no row but the written ones, of each layer, and trash has changed."""
    for layer, old, row_N in zip(cache.layers, before, written, strict=True):
        is_kept_Z = np.ones(len(layer.position_Z), bool)
        is_kept_Z[[*row_N, -1]] = False
        assert layer.position_Z[-1] == -1
        for part, old_part in zip(layer, old, strict=True):
            assert part[is_kept_Z].tobytes() == old_part[is_kept_Z].tobytes()


@given(program_rows, st.integers(0, LENGTH), st.permutations(range(ROWS)), cached, seeds)
def test_a_copied_sequence_is_the_same_and_others_are_as_before(rows, length, order, dtype, seed):
    recorded = Recorded(rows)
    cache, (source, target, _) = cache_of(recorded.transfer, seed, dtype=dtype), order
    cache.length_B[source], cache.oldest_B[source] = length, min(length, 2)
    before, written = snapshot(cache), []
    cache.copy_sequence(source, target)
    for layer, old, slots in zip(cache.layers, before, cache.slots, strict=True):
        position_N = np.arange(max(0, length - slots), length)
        source_N, target_N = (row * slots + position_N % slots for row in (source, target))
        for part, old_part in zip(layer[:2], old, strict=False):
            assert part[target_N].tobytes() == old_part[source_N].tobytes()
        assert layer.position_Z[target_N].tolist() == position_N.tolist()
        written.append(target_N)
    assert_unchanged(cache, before, written)
    assert (cache.length_B[target], cache.oldest_B[target]) == (length, min(length, 2))
    assert recorded.shapes <= ({length, *cache.slots} if rows is None else {rows})


some_positions = st.lists(st.integers(-1, LENGTH - 1), unique=True)


@given(st.sampled_from([None, 8, 32]), some_positions, cached, seeds)
def test_what_was_read_is_written_at_its_positions_and_padding_nowhere(
    rows, positions, dtype, seed
):
    recorded, position_N = Recorded(rows), np.array(positions[:8], int)
    cache = cache_of(recorded.transfer, seed, dtype=dtype)
    before, caches = snapshot(cache), cache.layers[:1]
    (tokens,) = recorded.transfer.read(caches, cache.flat_rows(0, 0, np.arange(len(position_N))))
    target_N = cache.flat_rows(0, 2, position_N)
    recorded.transfer.write(caches, (tokens,), position_N, target_N)
    kept_N = position_N >= 0
    for part, read, old in zip(cache.layers[0][:2], tokens, before[0][:2], strict=True):
        assert read.tobytes() == old[: len(position_N)].tobytes()
        assert part[target_N[kept_N]].tobytes() == read[kept_N].tobytes()
    assert cache.layers[0].position_Z[target_N].tolist() == position_N.tolist()
    assert_unchanged(cache, before, [target_N, [], []])
    assert rows is None or recorded.shapes == {rows}


@pytest.mark.parametrize("rows", [None, 8])
def test_other_ranks_run_the_same_programs_and_write_nothing(rows):
    rank_rows = slice(0, 1), slice(1, 3)
    recorded = Recorded(rows)
    cache = cache_of(recorded.transfer, 0, rank_rows=rank_rows, rank=0, sequences=2)
    cache.length_B[1], before = 11, snapshot(cache)
    cache.copy_sequence(1, 2)
    assert_unchanged(cache, before, [[], [], []])
    assert cache.length_B.tolist() == [0, 11, 11]
    assert recorded.shapes == ({11, 7} if rows is None else {8})


def test_tokens_keep_the_dtype_of_the_cache():
    cache = cache_of(KVTransfer(rows=8), 0, dtype=ml_dtypes.bfloat16)
    ((k_NKQ, v_NKC),) = cache.transfer.read(cache.layers[:1], np.arange(3))
    assert k_NKQ.dtype == v_NKC.dtype == ml_dtypes.bfloat16
