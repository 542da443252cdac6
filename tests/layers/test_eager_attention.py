"""Eager attention per KV head, on threads, against attention of all heads at once."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mimo_v2_flash.config import NO_WINDOW
from mimo_v2_flash.kernels.attention import KVSegment
from mimo_v2_flash.layers import eager_attention
from mimo_v2_flash.layers.eager_attention import attend, attend_per_kv_head
from tests.support.drawn import seeds

B, K, GROUP, Q, C = 2, 3, 2, 6, 4


def tensors(
    seed: int, active: int, prior: int
) -> tuple[np.ndarray, KVSegment, KVSegment, np.ndarray]:
    """Return a step of `active` tokens after `prior` ones; the second row has padding."""

    def normal(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape).astype(np.float32)

    generator = np.random.default_rng(seed)
    position_BT = np.tile(np.arange(prior, prior + active, dtype=np.int32), (B, 1))
    position_BT[1, active // 2 + 1 :] = -1
    prior_position_BS = np.tile(np.arange(prior, dtype=np.int32), (B, 1))
    return (
        normal(B, active, K * GROUP, Q),
        KVSegment(normal(B, active, K, Q), normal(B, active, K, C), position_BT),
        KVSegment(normal(B, prior, K, Q), normal(B, prior, K, C), prior_position_BS),
        normal(K * GROUP),
    )


@given(seeds, st.integers(1, 40), st.integers(0, 30), st.sampled_from([1, 5, 40, NO_WINDOW]))
@example(0, 40, 30, NO_WINDOW)
def test_by_heads_is_all_at_once(seed, active, prior, window):
    step = tensors(seed, active, prior)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eager_attention, "FEW_SCORES", 0)
        patch.setattr(eager_attention, "BLOCK_SCORES", 64)
        patch.setattr(eager_attention, "SHORTEST_BLOCK", 3)
        actual = attend_per_kv_head(*step, window=window, query_block=16)
    expected = attend(*step, window=window, query_block=16)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_a_small_step_is_looked_at_whole(monkeypatch):
    def parallel_for(work, count):
        raise AssertionError("few scores must not use threads")

    monkeypatch.setattr(eager_attention, "parallel_for", parallel_for)
    step = tensors(0, 1, 5)
    np.testing.assert_array_equal(
        attend_per_kv_head(*step, window=4, query_block=16), attend(*step, window=4, query_block=16)
    )


def test_blocks_shrink_as_keys_grow(monkeypatch):
    blocks = []

    def attend_and_record(*step, window, query_block):
        blocks.append(query_block)
        return attend(*step, window=window, query_block=query_block)

    monkeypatch.setattr(eager_attention, "attend", attend_and_record)
    monkeypatch.setattr(eager_attention, "FEW_SCORES", 0)
    monkeypatch.setattr(eager_attention, "BLOCK_SCORES", 4096)
    attend_per_kv_head(*tensors(0, 30, 20), window=NO_WINDOW, query_block=128)
    assert set(blocks) == {4096 // (B * GROUP * 50)}
    assert len(blocks) == K


def test_the_window_decides_which_kernel(monkeypatch):
    called = []
    for name in ("attention_full", "attention_swa"):
        monkeypatch.setattr(eager_attention, name, lambda *_, name=name, **__: called.append(name))
    step = tensors(0, 1, 1)
    attend(*step, window=NO_WINDOW, query_block=1)
    attend(*step, window=129, query_block=1)
    assert called == ["attention_full", "attention_swa"]
