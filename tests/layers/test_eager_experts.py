"""Eager experts: whatever the format, the oracle's; a token's bits are its own."""

import gc
import weakref

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.checkpoint.params import ExpertWeights
from mimo_v2_flash.cpu import expert_step, thread_pool
from mimo_v2_flash.layers import eager_experts as module
from mimo_v2_flash.layers.eager_experts import MAX_TOKENS, eager_experts
from mimo_v2_flash.layers.eager_mode import EagerMode
from mimo_v2_flash.layers.grouped_experts import grouped_experts
from mimo_v2_flash.quantization.fp8 import BlockScaled
from tests.support.chosen_experts import assert_is_oracle, chosen_experts, random_step
from tests.support.drawn import seeds
from tests.support.stored_weights import KINDS

kinds = pytest.mark.parametrize("kind", KINDS)


def refuse(*_):
    raise AssertionError("another path computed this step")


class Store:
    """Experts that are no `ExpertWeights`: a store, which records what is read."""

    def __init__(self, experts: ExpertWeights) -> None:
        self.read: list[int] = []
        self._experts = experts

    def __len__(self) -> int:
        return len(self._experts)

    def __getitem__(self, expert):
        self.read.append(expert)
        return self._experts[expert]


@settings(max_examples=60, deadline=None)
@given(chosen_experts())
def test_it_is_its_oracle(step):
    assert_is_oracle(eager_experts(*step), step)


@kinds
def test_few_tokens_are_a_compiled_call(monkeypatch, kind):
    assert EagerMode.expert_fn is eager_experts
    monkeypatch.setattr(module, "grouped_experts", refuse)
    step = random_step(0, [kind] * 3, N=MAX_TOKENS, A=2, D=3, F=5)
    assert_is_oracle(eager_experts(*step), step)


@pytest.mark.parametrize("change", ["many", "narrow", "no numba"])
def test_other_steps_are_grouped(monkeypatch, change):
    step = random_step(0, ["float32"] * 3, N=MAX_TOKENS + (change == "many"), A=2, D=3, F=5)
    if change == "narrow":
        step = step._replace(x_ND=step.x_ND.astype(ml_dtypes.bfloat16))
    if change == "no numba":
        monkeypatch.setattr(module, "compiled_module", lambda _: None)
    expected_ND = grouped_experts(*step)
    monkeypatch.setattr(expert_step, "add_experts", refuse)
    np.testing.assert_array_equal(eager_experts(*step), expected_ND)


@settings(max_examples=30, deadline=None)
@given(seeds, st.lists(st.sampled_from(KINDS), min_size=2, max_size=6), st.integers(0, 8))
def test_a_token_is_to_the_bit_what_it_is_alone(seed, kinds, n):
    """With experts of several formats in one layer too."""
    step = random_step(seed, kinds, N=9, A=2, D=129, F=67)
    together_ND = eager_experts(*step)
    assert_is_oracle(together_ND, step)
    alone = (part[n : n + 1] for part in step[:3])
    np.testing.assert_array_equal(eager_experts(*alone, step.experts), together_ND[n : n + 1])


def test_an_expert_that_the_loops_cannot_read_is_grouped():
    step = random_step(0, ["float32"] * 4, N=9, A=2, D=29, F=67)
    first, *others = step.experts
    experts = ExpertWeights.of([map(np.asfortranarray, first), *others])
    assert_is_oracle(eager_experts(*step[:3], experts), step)


@kinds
@pytest.mark.parametrize("threads", [2, 5, 64])
def test_the_number_of_threads_changes_no_bit(monkeypatch, kind, threads):
    step = random_step(0, [kind] * 6, N=7, A=3, D=200, F=129)
    expected_ND = eager_experts(*step)
    monkeypatch.setattr(expert_step, "MIN_SHARED_WORK", 0)
    monkeypatch.setattr(thread_pool, "thread_count", lambda: threads)
    for _ in range(5):
        np.testing.assert_array_equal(eager_experts(*step), expected_ND)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_token_is_alone(bad):
    step = random_step(1, ["float8"] * 3, N=5, A=2)
    expected_ND = eager_experts(*step)
    step.x_ND[2, 7], step.expert_NA[2, 0] = bad, 0
    y_ND = eager_experts(*step)
    assert not np.isfinite(y_ND[2]).any()
    np.testing.assert_array_equal(np.delete(y_ND, 2, 0), np.delete(expected_ND, 2, 0))


@pytest.mark.parametrize("matrix", range(3))
def test_a_code_that_is_nan_is_its_tokens(matrix):
    step = random_step(0, ["float8"] * 3, N=9, A=1)
    expected_ND, is_chosen_N = eager_experts(*step), step.expert_NA[:, 0] == 1
    step.experts[1][matrix].code[5, 100] = 0x7F
    y_ND = eager_experts(*step)
    assert 0 < is_chosen_N.sum() < 9
    np.testing.assert_array_equal(y_ND[~is_chosen_N], expected_ND[~is_chosen_N])
    outputs = slice(None) if matrix < 2 else 5
    assert np.isnan(y_ND[is_chosen_N, outputs]).all()


@kinds
def test_an_expert_is_read_when_it_is_first_chosen(kind):
    step = random_step(0, [kind] * 6, N=3, A=2)
    store = Store(step.experts)
    np.testing.assert_array_equal(eager_experts(*step[:3], store), eager_experts(*step))
    chosen = {*step.expert_NA.ravel().tolist()} - {6}
    assert sorted(store.read) == sorted(chosen)
    nobody = np.full_like(step.expert_NA, 6)
    assert not eager_experts(step.x_ND, step.weight_NA, nobody, Store(step.experts)).any()
    assert not eager_experts(*(part[:0] for part in step[:3]), step.experts).any()


def test_slices_and_stacks_are_experts_too():
    step = random_step(0, ["float8"] * 4, N=5, A=2)
    expected_ND = eager_experts(*step)
    stacked = ExpertWeights(*map(BlockScaled.stack, step.experts.columns))
    np.testing.assert_array_equal(eager_experts(*step[:3], stacked), expected_ND)
    halves = [
        eager_experts(step.x_ND, step.weight_NA, step.expert_NA - first, stacked[first : first + 2])
        for first in np.array([0, 2], np.int32)
    ]
    np.testing.assert_allclose(sum(halves), expected_ND, atol=1e-5 * np.abs(expected_ND).max())


def test_addresses_live_no_longer_than_their_experts():
    step = random_step(0, ["float8"] * 2, N=2, A=1)
    eager_experts(*step)
    dead = weakref.ref(step.experts.w_gate_eFD[0])
    del step
    gc.collect()
    assert dead() is None


def test_bad_shapes_are_named():
    step = random_step(0, ["float32"] * 2, N=2, A=1, D=6, F=5)
    step.expert_NA[:] = 0
    gate, up, down = step.experts.columns
    wrong = ExpertWeights(gate, [w[:4] for w in up], down)
    with pytest.raises(ValueError, match="axis F is 5"):
        eager_experts(*step[:3], wrong)
    with pytest.raises(ValueError, match="axis D is 5"):
        eager_experts(step.x_ND[:, :5], *step[1:])
    with pytest.raises(ValueError, match="axis N is 2"):
        eager_experts(step.x_ND, step.weight_NA[:1], *step[2:])
