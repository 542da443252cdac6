"""Eager mode: passes of real tokens alone, and as few attention calls as there are rectangles."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash import MiMoConfig, load_weights
from mimo_v2_flash.execution.pytree import tree_leaves
from mimo_v2_flash.kv_cache import new_cache
from mimo_v2_flash.layers.eager_dispatchers import MoEStepShape
from mimo_v2_flash.layers.eager_mode import EagerMode
from mimo_v2_flash.layers.forward_batch import Step
from mimo_v2_flash.parallel import ThreadGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from mimo_v2_flash.quantization import QuantizedTensor
from mimo_v2_flash.quantization.compute import ActivationQuantizedWeight
from tests.support.batches import batch_of
from tests.support.shipped import FOLDER
from tests.support.tiny import tiny

MODE = EagerMode()
counts = st.lists(st.integers(0, 5), min_size=1, max_size=9)


def cache_of(rows: int, **options):
    return new_cache(tiny().config.layers, batch_size=rows, max_length=40, **options)


def rank_rows(ends: list[int]) -> tuple[slice, ...]:
    return tuple(slice(start, end) for start, end in zip([0, *ends], ends, strict=False))


def step_of(starts, lengths) -> Step:
    token_BT = np.arange(9 * len(lengths)).reshape(-1, 9)
    return Step(token_BT, np.array(starts), np.array(lengths), np.zeros((len(lengths), 1), int))


@given(counts, st.integers(1, 12), st.data())
def test_passes_have_every_token_once_in_order(lengths, max_step, data):
    starts = [data.draw(st.integers(0, 9)) for _ in lengths]
    rows = rank_rows([data.draw(st.integers(0, len(lengths))), len(lengths)])
    cache, done_B = cache_of(len(lengths), rank_rows=rows), np.zeros(len(lengths), int)
    batches = list(MODE.batches(step_of(starts, lengths), cache, max_step))
    assert len(batches) == -(-max(sum(lengths[part]) for part in rows) // max_step)
    for batch in batches:
        first_B, count_B = batch.first_B, batch.count_B
        np.testing.assert_array_equal(first_B[count_B > 0], done_B[count_B > 0])
        np.testing.assert_array_equal(batch.start_B, starts + first_B)
        per_rank = [int(np.sum(count_B[part])) for part in rows]
        assert 0 < batch.longest == max(per_rank) <= max_step
        assert len(batch.token_N) == per_rank[0]
        done_B += count_B
    assert done_B.tolist() == lengths


def test_a_pass_is_full_but_for_the_last():
    batches = MODE.batches(step_of([0] * 4, [5, 0, 9, 1]), cache_of(4), 4)
    assert [len(batch.token_N) for batch in batches] == [4, 4, 4, 3]


@given(counts, st.integers(1, 12), st.data())
def test_batches_have_the_real_tokens_row_after_row(lengths, max_step, data):
    starts = [data.draw(st.integers(0, 9)) for _ in lengths]
    step = step_of(starts, lengths)
    batches = list(MODE.batches(step, cache_of(len(lengths)), max_step))
    rows = [(row, t) for row, count in enumerate(lengths) for t in range(count)]

    def joined(name: str) -> list[int]:
        return [value for batch in batches for value in getattr(batch, name).tolist()]

    assert joined("token_N") == [int(step.token_BT[row, t]) for row, t in rows]
    assert joined("position_N") == [starts[row] + t for row, t in rows]
    assert joined("row_N") == [row for row, _ in rows]
    for batch in batches:
        assert batch.position_N.dtype == np.int32
        end_B = batch.start_B + batch.count_B
        assert batch.end_N.tolist() == end_B[batch.row_N].tolist()


@given(counts.filter(any))
def test_the_rectangles_have_every_token_once_and_no_row_twice(lengths):
    batch = batch_of([0] * len(lengths), lengths, cache_of(len(lengths)))
    index_N = np.arange(sum(lengths), dtype=np.int32)
    tokens, rows = [], []
    for run in batch.runs:
        index_BT, position_BT = run.gather(index_N), run.positions(batch.position_N)
        is_token_BT = position_BT >= 0
        tokens += index_BT[is_token_BT].tolist()
        for row, is_token_T in enumerate(is_token_BT):
            count = int(np.sum(is_token_T))
            assert count in (0, lengths[run.first_row + row])
            rows += [run.first_row + row] * bool(count)
    assert sorted(tokens) == index_N.tolist()
    assert sorted(rows) == [row for row, count in enumerate(lengths) if count]


@pytest.mark.parametrize(
    ("lengths", "rectangles"),
    [
        ([1] * 32, [(0, 32, 1)]),
        ([1, 0, 1, 0, 0, 1], [(0, 6, 1)]),
        ([1] * 15 + [512] + [1] * 16, [(0, 32, 1), (15, 1, 512)]),
        ([7, 7, 7], [(0, 3, 7)]),
        ([4, 0, 4, 2, 1, 8], [(4, 1, 1), (0, 6, 8)]),
        ([9, 0, 9, 8, 1, 70], [(4, 1, 1), (3, 1, 8), (0, 1, 9), (2, 1, 9), (5, 1, 70)]),
    ],
)
def test_rows_of_one_token_and_of_few_are_a_call_each_and_a_prompt_is_one(lengths, rectangles):
    cache = new_cache(tiny().config.layers, batch_size=len(lengths), max_length=600)
    batch = batch_of([0] * len(lengths), lengths, cache)
    assert [(run.first_row, run.rows, run.tokens) for run in batch.runs] == rectangles


def test_a_rectangle_is_scattered_to_where_it_was_gathered():
    batch = batch_of([3, 3, 3, 0, 3], [1, 0, 1, 2, 1], cache_of(5))
    x_N = np.arange(5.0)[:, None]
    y_N = np.full_like(x_N, np.nan)
    for run in batch.runs:
        run.scatter(run.gather(x_N), y_N)
    np.testing.assert_array_equal(y_N, x_N)
    decode, prompt = batch.runs
    assert decode.kv_length == 3
    assert prompt.kv_length == 0
    assert decode.positions(batch.position_N).ravel().tolist() == [3, -1, 3, -1, 3]
    assert np.shares_memory(prompt.gather(x_N), x_N)


def test_a_run_attends_to_as_many_slots_as_its_longest_sequence_has():
    batch = batch_of([2, 7, 9, 4], [1, 1, 0, 1], cache_of(4))
    assert [run.kv_length for run in batch.runs] == [7]  # an idle sequence does not count


def test_selected_rows_are_the_wanted_tokens_alone():
    batch = batch_of([0, 0, 0], [2, 0, 3], cache_of(3))
    index_Bn = np.array([[1, 0], [0, 0], [2, 9]])
    is_in_pass_Bn = np.array([[True, True], [False, False], [True, False]])
    row_N, kept = MODE.select_rows(batch, index_Bn, is_in_pass_Bn, slice(0, 3))
    assert row_N.tolist() == [1, 0, 4]
    assert np.arange(3)[kept].tolist() == [0, 1, 2]


@given(st.integers(0, 20), st.integers(1, 5))
def test_tokens_are_split_without_padding(count, ranks):
    parts = [
        MODE.split_tokens(np.arange(count), np.array([rank], np.int32), ranks, padding=-1)
        for rank in range(ranks)
    ]
    assert np.concatenate(parts).tolist() == list(range(count))
    assert max(map(len, parts)) == -(-count // ranks)


@given(st.integers(0, 600), st.integers(1, 600))
def test_as_many_slots_are_attended_to_as_hold_a_token(count, slots):
    assert MODE.kv_length(count, slots) == min(count, slots)


def test_a_step_has_one_dispatcher():
    sizes = {"local_tokens": 128, "ranks": 32, "num_experts": 256, "experts_per_token": 8}
    assert len(MODE.dispatchers(None, MoEStepShape(tokens=4096, **sizes))) == 1


def test_a_rank_has_its_groups_alone():
    plan, world = ParallelConfig(4, 2, 2), ThreadGroup(4)
    for ranks_of in (plan.tensor_group_ranks, plan.expert_group_ranks):
        ranks = world.run(lambda _, ranks_of=ranks_of: MODE.build_group(world, ranks_of).rank)
        assert ranks == [ranks_of(rank).index(rank) for rank in range(4)]


def test_a_rank_holds_its_sequences_alone():
    rows = rank_rows([2, 2, 5])
    assert [MODE.sequences(rows, rank) for rank in range(3)] == [2, 0, 3]


def test_a_compute_type_belongs_to_the_weights_of_products_alone():
    weights = load_weights(FOLDER, MiMoConfig.from_pretrained(FOLDER))
    assert MODE.process_weights(weights, "float32") is weights
    wrapped = (ActivationQuantizedWeight, QuantizedTensor)
    rounding = tree_leaves(MODE.process_weights(weights, "bfloat16"), leaf=wrapped)
    is_rounding = {
        path.split(".")[-1]: isinstance(leaf, ActivationQuantizedWeight)
        for path, leaf in rounding.items()
        if hasattr(leaf, "shape") and not path.split(".")[-1].isdigit()
    }
    multiplied = {"w_q_OD", "w_k_OD", "w_v_OD", "w_o_DI", "w_gate_FD", "w_up_FD", "w_down_DF"}
    multiplied |= {"w_eh_DI", "w_logits_VD"}
    assert {name for name, rounds in is_rounding.items() if rounds} == multiplied
    assert {"w_router_ED", "embedding_VD", "sink_H", "bias_E"} < is_rounding.keys()
    experts = [leaf for path, leaf in rounding.items() if ".experts." in path]
    assert len(experts) == 5 * 16 * 3
    assert all(leaf.compute == "bfloat16" for leaf in experts)
