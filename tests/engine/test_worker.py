"""worker: plans are plain data; a worker executes them, and what rank 0 sends."""

import pickle

import numpy as np
import pytest

from mimo_v2_flash.engine.prefix_store import BLOCK, PrefixStore
from mimo_v2_flash.engine.worker import RowTokens, StepPlan, Worker
from mimo_v2_flash.parallel import RankError, ThreadGroup
from tests.support.engine_model import HistoryModel, logits_after

V = 23
PLAN = StepPlan(
    0,
    4,
    (RowTokens(0, 0, [7], 1), RowTokens(2, 0, [1, 2, 3], 0), RowTokens(3, 0, [4, 5], 2)),
    greedy=False,
)


def worker_of(*, store: bool = False, **options) -> Worker:
    model = HistoryModel(V, 80, **options)
    cache = model.new_cache(4, captures=store)
    return Worker(model, cache, [PrefixStore(cache, 1 << 20)] if store else [])


def prefill(worker: Worker, row: int, start: int, tokens: list[int]) -> None:
    """Compute tokens of a row."""
    worker.step(StepPlan(0, 4, (RowTokens(row, start, tokens, 0),), greedy=True))


@pytest.mark.parametrize("pads_steps", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_what_heads_have_read_of_a_rows_former_sequence_is_forgotten(pads_steps, known):
    """Their keys lie at positions that the next sequence has too, and are read late."""
    model = HistoryModel(V, 80, pads_steps=pads_steps)
    cache = model.new_cache(4, captures=True, mtp_heads=3)
    worker = Worker(model, cache, [PrefixStore(cache, 1 << 20, range(2, 5))], mtp_heads=3)
    prompt = [index % V for index in range(BLOCK + 3)]
    prefill(worker, 0, 0, prompt)
    worker.save(())
    heads = cache.layers[2:5]
    for layer in heads:
        layer.k_ZKQ[:] = layer.position_Z[:-1, None, None].max() + 1
        layer.position_Z[:-1] = 7
    if known:
        assert worker.restore(1, prompt) == BLOCK
    else:
        prefill(worker, 1, 0, [5])
    for layer, slots in zip(heads, cache.slots[2:5], strict=True):
        first, second = layer.position_Z[: 2 * slots].reshape(2, slots)
        assert (set(first), set(second)) == ({7}, {-1})
        assert not layer.k_ZKQ[slots : 2 * slots].any()
    prefill(worker, 0, len(prompt), [1])  # what goes on is not forgotten
    assert np.count_nonzero(heads[0].position_Z[: cache.slots[2]] == 7) == cache.slots[2] - 1


def test_a_plan_as_arrays():
    token_BT, position_BT, index_Bn = PLAN.arrays()
    assert token_BT.tolist() == [[7, 0, 0], [0, 0, 0], [1, 2, 3], [4, 5, 0]]
    assert position_BT.tolist() == [[0, -1, -1], [-1] * 3, [0, 1, 2], [0, 1, -1]]
    assert index_Bn.tolist() == [[0, -1], [-1, -1], [-1, -1], [0, 1]]


def test_a_plan_of_one_row_counts_from_it():
    plan = StepPlan(2, 1, (RowTokens(2, 5, [1, 2], 1),), greedy=True)
    assert [array.tolist() for array in plan.arrays()] == [[[1, 2]], [[5, 6]], [[1]]]


def test_a_plan_of_32_rows_is_short():
    parts = tuple(RowTokens(row, 4000 + row, [150_000 + row], 1) for row in range(32))
    assert len(pickle.dumps(StepPlan(0, 32, parts, greedy=True))) < 1000


def test_a_step_gives_what_is_wanted():
    worker = worker_of()
    (logits_BnV,) = worker.step(PLAN)
    np.testing.assert_array_equal(logits_BnV[0, 0], logits_after([7], V))
    np.testing.assert_array_equal(logits_BnV[3], [logits_after([4], V), logits_after([4, 5], V)])
    row = StepPlan(2, 1, (RowTokens(2, 3, [9], 1),), greedy=True)
    token_11, logit_11 = worker.step(row)
    expected_V = logits_after([1, 2, 3, 9], V)
    assert (token_11.item(), logit_11.item()) == (np.argmax(expected_V), np.max(expected_V))


@pytest.mark.parametrize("bad", [(), (1,)])
def test_good_rows_are_kept_as_prefixes_with_all_their_tokens(bad):
    worker, prompt = worker_of(store=True, window=64), list(range(20)) * 3
    prefill(worker, 1, 0, prompt[:10])
    worker.save(())
    worker.copy(1, 2)
    plan = StepPlan(
        0, 4, (RowTokens(1, 10, prompt[10:40], 0), RowTokens(2, 10, [3] * 30, 0)), greedy=True
    )
    worker.step(plan)
    worker.save(bad)
    assert worker.known(0, prompt) == (0 if bad else BLOCK)
    assert worker.known(0, [*prompt[:10], *[3] * 30]) == BLOCK
    start = worker.restore(3, [*prompt[:10], *[3] * 30])
    prefill(worker, 3, start, [4])  # the model checks the keys of the row
    assert worker._row_tokens[3] == [*prompt[:10], *[3] * 22, 4]


def test_a_step_of_several_passes_keeps_nothing():
    worker = worker_of(store=True, max_step=39)
    prefill(worker, 0, 0, [1] * 40)
    worker.save(())
    assert worker.known(0, [1] * 40) == 0


def test_without_a_store_nothing_is_known():
    worker = worker_of()
    assert (worker.known(0, [1] * 40), worker.restore(0, [1] * 40)) == (0, 0)


def follow(*messages):
    """Return what a worker was given and shared, and its error, on rank 1 of two."""
    group = ThreadGroup(2)

    def program(rank: int):
        if rank == 0:
            for message in messages:
                group.broadcast(pickle.dumps(message))
            return None
        worker, shared, error = worker_of(), [], None
        worker._model.group = group
        try:
            worker.follow(shared.append)
        except RankError as raised:
            error = str(raised)
        return len(worker._model.steps), shared, error

    return group.run(program)[1]


def test_calls_are_done_in_their_order_until_the_end():
    assert follow([("share", 1), ("step", PLAN)], [("copy", 0, 1), ("close", None)]) == (
        1,
        [1],
        None,
    )


def test_what_is_shared_comes_before_an_error_of_rank_0():
    error = "rank 0 raised KeyError: 5"
    assert follow([("share", 1), ("close", "KeyError: 5")]) == (0, [1], error)
