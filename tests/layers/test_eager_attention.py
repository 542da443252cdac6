"""Eager attention, compiled and per KV head on threads, against attention of all heads at once."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mimo_v2_flash.config import NO_WINDOW
from mimo_v2_flash.cpu.loading import compiled_module as import_module
from mimo_v2_flash.kernels.attention import KVSegment
from mimo_v2_flash.layers import eager_attention
from mimo_v2_flash.layers.eager_attention import (
    FEW_TOKENS,
    attend,
    attend_per_kv_head,
    eager_attend,
)
from mimo_v2_flash.layers.eager_mode import EagerMode
from mimo_v2_flash.reference.attention import attention as oracle
from tests.support.agreement import assert_agrees
from tests.support.drawn import CODED, floats, seeds
from tests.support.ring_steps import decoded, stored
from tests.support.steps import Step, random_step

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


def segments(step: Step) -> tuple[np.ndarray, KVSegment, KVSegment, np.ndarray]:
    """Return a step as attention takes it."""
    return step.q_BTHQ, KVSegment(*step[1:4]), KVSegment(*step[4:7]), step.sink_H


def refuse(*_, **__):
    raise AssertionError("another path computed this step")


@pytest.mark.parametrize("T", [1, 4, FEW_TOKENS, FEW_TOKENS + 1, 30])
def test_it_is_a_compiled_call(monkeypatch, T):
    assert EagerMode.attend is eager_attend
    step = random_step(starts=(5, 3), T=T, S=5)
    expected = attend(*segments(step), window=4, query_block=16)
    modules = []
    monkeypatch.setattr(eager_attention, "attend_per_kv_head", refuse)
    monkeypatch.setattr(
        eager_attention, "compiled_module", lambda name: modules.append(name) or import_module(name)
    )
    actual = eager_attend(*segments(step), window=4, query_block=16)
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    assert modules[0] == ("decode_attention" if T <= FEW_TOKENS else "prefill_attention")


@pytest.mark.parametrize("T", [1, FEW_TOKENS + 1])
@pytest.mark.parametrize("change", ["no numba", "other rows", "other dtype", *CODED], ids=str)
def test_what_the_loops_cannot_read_is_computed_by_numpy(monkeypatch, change, T):
    step = random_step(starts=(5, 3), T=T, S=5)
    expected = attend(*segments(step), window=4, query_block=16)
    if change == "no numba" or change in CODED:
        monkeypatch.setattr(eager_attention, "compiled_module", lambda _: None)
        step = stored(step, np.float32 if change == "no numba" else change)
        expected = attend(*segments(decoded(step)), window=4, query_block=16)
    elif change == "other rows":
        step = step._replace(
            prior_v_BSKC=np.swapaxes(np.swapaxes(step.prior_v_BSKC, 1, 2).copy(), 1, 2)
        )
    else:
        step = step._replace(k_BTKQ=step.k_BTKQ.astype(ml_dtypes.bfloat16))
        expected = attend(*segments(step), window=4, query_block=16)
    np.testing.assert_array_equal(eager_attend(*segments(step), window=4, query_block=16), expected)


@settings(deadline=None)
@given(seeds, st.sampled_from([1, 3, 20]), floats, st.sampled_from([3, NO_WINDOW]), st.booleans())
@example(0, 3, ml_dtypes.bfloat16, NO_WINDOW, False)
def test_a_bfloat16_stream_rounds_no_weights(seed, T, dtype, window, has_numba):
    """The output is the oracle's, rounded once: by half a unit of the last of 8 bits."""
    step = random_step(seed, starts=(40, 7), T=T, S=40, dtype=ml_dtypes.bfloat16)
    narrow = ("k_BTKQ", "v_BTKC", "prior_k_BSKQ", "prior_v_BSKC")
    step = step._replace(**{name: getattr(step, name).astype(dtype) for name in narrow})
    exact = oracle(*step, window=window)
    with pytest.MonkeyPatch.context() as patch:
        if not has_numba:
            patch.setattr(eager_attention, "compiled_module", lambda _: None)
        actual = eager_attend(*segments(step), window=window, query_block=2)
    assert actual.dtype == ml_dtypes.bfloat16
    error = np.abs(actual.astype(np.float64) - exact)
    assert np.all(error <= 2.0**-8 * np.abs(exact) + 1e-5)


@pytest.mark.parametrize("T", [1, 2])
def test_bad_shapes_are_named(T):
    step = random_step(T=T, S=3, starts=(2,))
    with pytest.raises(ValueError, match="axis K is 2"):
        eager_attend(
            *segments(step._replace(v_BTKC=step.v_BTKC[:, :, :1])), window=4, query_block=16
        )
    three = step._replace(q_BTHQ=step.q_BTHQ[:, :, :3], sink_H=step.sink_H[:3])
    with pytest.raises(ValueError, match="3 query heads are no multiple of 2 KV heads"):
        eager_attend(*segments(three), window=4, query_block=16)
    with pytest.raises(ValueError, match="window must be at least 1"):
        eager_attend(*segments(step), window=0, query_block=16)
    codes = stored(step, CODED[0])
    with pytest.raises(ValueError, match="queries have 7 channels, keys 8"):
        eager_attend(
            *segments(codes._replace(q_BTHQ=step.q_BTHQ[..., :7])), window=4, query_block=16
        )


@settings(deadline=None)
@given(seeds, st.integers(0, 300), floats)
def test_one_token_steps_are_those_of_a_prompt(seed, start, dtype):
    """The last token of a chunk, and the same token by itself after the others are cached."""
    step = random_step(seed, starts=(start,), T=4, S=0)
    narrow = {name: getattr(step, name).astype(dtype) for name in ("k_BTKQ", "v_BTKC")}
    step = step._replace(**narrow)
    chunk = eager_attend(
        *segments(step._replace(prior_k_BSKQ=step.k_BTKQ[:, :0], prior_v_BSKC=step.v_BTKC[:, :0])),
        window=3,
        query_block=16,
    )
    last, before = ([part[:, side] for part in step[:4]] for side in (np.s_[3:], np.s_[:3]))
    active, prior = KVSegment(*last[1:]), KVSegment(*before[1:])
    alone = eager_attend(last[0], active, prior, step.sink_H, window=3, query_block=16)
    assert_agrees(alone, chunk[:, 3:], scale=4)
