"""NaN on ranks: every rank raises the same error, which names what one rank alone has seen."""

import numpy as np
import pytest

from mimo_v2_flash import NonFiniteError
from mimo_v2_flash.layers.nonfinite import NonFiniteCause
from mimo_v2_flash.parallel import ThreadGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.agreement import assert_agrees
from tests.support.poison import BAD_TOKEN, poisoned
from tests.support.processes import by_torchrun
from tests.support.rows import ragged
from tests.support.tiny import Recipe, random_tokens, running, tiny

MODEL = tiny(Recipe(experts=8, dense_width=32, vocabulary=64))
PLANS = [
    ParallelConfig(2, 1, 2),
    ParallelConfig(2, 2, 1),
    ParallelConfig(4, 1, 4),
    ParallelConfig(4, 2, 2),
    ParallelConfig(2, 4, 1),
]
every_plan = pytest.mark.parametrize("plan", PLANS, ids=str)


def rows_with(bad: int) -> list[np.ndarray]:
    """Return five rows of which one has BAD_TOKEN as its second token."""
    rows = [random_tokens(MODEL, length, seed=length) for length in (3, 9, 5, 2, 6)]
    rows = [np.where(row == BAD_TOKEN, 0, row) for row in rows]
    rows[bad][1] = BAD_TOKEN
    return rows


def errors_on_ranks(model, plan, call, **options) -> list[NonFiniteError]:
    """Return what `call(model)` raises on every rank."""
    group = ThreadGroup(plan.world_size)

    def program(_: int) -> NonFiniteError:
        ours = running(model, group=group, plan=plan, **options)
        with pytest.raises(NonFiniteError) as caught:
            call(ours)
        return caught.value

    return group.run(program)


@every_plan
@pytest.mark.parametrize("exchange", ["all_gather", "all_to_all"])
@pytest.mark.parametrize("bad", [0, 3, 4])
def test_all_ranks_raise_the_same_and_go_on(plan, exchange, bad):
    rows = rows_with(bad)
    lengths = np.array([len(row) for row in rows])
    step, last_B1 = ragged(rows, [0] * 5), lengths[:, None] - 1
    good = running(MODEL)
    expected_B1V = good.step(*step, good.new_cache(5, 12), logits_at=last_B1)
    others = np.arange(5) != bad
    group = ThreadGroup(plan.world_size)

    def program(_: int):
        model = running(
            poisoned(MODEL, "embedding"), group=group, plan=plan, exchange=exchange, max_step=8
        )
        cache = model.new_cache(5, 12)
        with pytest.raises(NonFiniteError) as caught:
            model.step(*step, cache, logits_at=last_B1)
        new = [[1], [2], [3], [4], [5]]
        starts = np.where(others, lengths, 0)
        assert cache.length_B.tolist() == starts.tolist()
        return caught.value, model.step(*ragged(new, starts), cache)

    results = group.run(program)
    first, next_BTV = results[0]
    assert first.causes == {bad: NonFiniteCause(1, None, "embedding")}
    assert_agrees(first.logits[others], expected_B1V[others], scale=10 * np.ptp(expected_B1V))
    assert np.isfinite(next_BTV).all()
    for error, logits_BTV in results:
        assert str(error) == str(first)
        np.testing.assert_array_equal(error.logits, first.logits)
        np.testing.assert_array_equal(logits_BTV, next_BTV)


@every_plan
@pytest.mark.parametrize(
    ("weight", "part", "layer", "expert"),
    [
        ("w_q_OD", "attention projections", 1, None),  # of the last head: the last rank's
        ("w_o_DI", "attention output", 1, None),
        ("bias_E", "router", 3, None),
        ("w_down_DF", "dense FFN", 0, None),
        ("experts", "expert FFN", 3, 7),
        ("w_logits_VD", "head", None, None),
    ],
)
def test_what_one_rank_sees_is_named_by_all(plan, weight, part, layer, expert):
    model = poisoned(MODEL, weight, layer=layer, expert=expert)
    token_BT = random_tokens(MODEL, 3, 30)
    errors = errors_on_ranks(model, plan, lambda ours: ours.forward(token_BT))
    assert len({str(error) for error in errors}) == 1
    for cause in errors[0].causes.values():
        assert (cause.layer, cause.part, cause.expert) == (layer, part, expert)
        assert cause.position is not None


@every_plan
def test_greedy_tokens_of_the_others_are_those_of_one_rank(plan):
    rows, model = rows_with(2), running(MODEL)
    step = ragged(rows, [0] * 5)
    last_B1 = np.array([len(row) for row in rows])[:, None] - 1
    expected_B1, _ = model.greedy(*step, model.new_cache(5, 12), at=last_B1)
    errors = errors_on_ranks(
        poisoned(MODEL, "embedding"),
        plan,
        lambda ours: ours.greedy(*step, ours.new_cache(5, 12), at=last_B1),
    )
    for error in errors:
        token_B1, logit_B1 = error.outputs
        assert error.rows == (2,)
        assert token_B1[2, 0] == -1
        assert np.isnan(logit_B1[2, 0])
        np.testing.assert_array_equal(
            np.delete(token_B1, 2, axis=0), np.delete(expected_B1, 2, axis=0)
        )


@pytest.mark.distributed
@pytest.mark.parametrize("size", [2, 4])
def test_processes_raise_the_same(size):
    run = by_torchrun("raises_non_finite", size)
    assert run.codes == [0], run.output
    assert run.output.count("row 1: embedding, position 2") == size
    assert run.output.count("is well") == size
