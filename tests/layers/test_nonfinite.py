"""NaN and infinity: they stay in their row, which is named with the tensor where they arise."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash import NonFiniteError
from mimo_v2_flash.execution import MissingProgramError, NumpyBackend
from mimo_v2_flash.layers.nonfinite import NonFiniteCause, has_nonfinite
from tests.support.agreement import assert_agrees
from tests.support.drawn import CODED
from tests.support.poison import BAD_TOKEN, poisoned, poisoned_cache
from tests.support.rows import ragged
from tests.support.tiny import random_tokens, running, tiny

MODEL = tiny()
SPARSE, DENSE = 1, 0  # layers of the tiny model; layer 1 is sliding
WRONG = st.sampled_from([np.nan, np.inf, -np.inf])


class StaticBackend(NumpyBackend):
    """Static shapes, as programs have, on NumPy's arrays."""

    execution_mode = "static"


BACKENDS = {"eager": NumpyBackend, "static": StaticBackend}
every_mode = pytest.mark.parametrize("mode", BACKENDS)


def rows_of(lengths, seed=0) -> list[np.ndarray]:
    """Return token ids of rows, none of which is BAD_TOKEN."""
    rows = (random_tokens(MODEL, length, seed=seed + row) for row, length in enumerate(lengths))
    return [np.where(row == BAD_TOKEN, 0, row) for row in rows]


def failure(call, *args, **kwargs) -> NonFiniteError:
    with pytest.raises(NonFiniteError) as caught:
        call(*args, **kwargs)
    return caught.value


def is_bad(array_B) -> list[bool]:
    return has_nonfinite(array_B).tolist()


@every_mode
@settings(max_examples=12)
@given(st.data(), WRONG)
def test_one_bad_token_ends_its_row_alone(mode, data, wrong):
    """Other rows' logits, tokens and caches are those of the run without it."""
    lengths = data.draw(st.lists(st.integers(1, 12), min_size=2, max_size=5))
    bad = data.draw(st.integers(0, len(lengths) - 1))
    at = data.draw(st.integers(0, lengths[bad] - 1))
    options = {"max_step": data.draw(st.integers(1, 40))}
    rows = rows_of(lengths)
    step, last_B1 = ragged(rows, [0] * len(rows)), np.array(lengths)[:, None] - 1
    good = running(MODEL, backend=BACKENDS[mode](), **options)
    cache = good.new_cache(len(rows), 30)
    expected_B1V = good.step(*step, cache, logits_at=last_B1)
    rows[bad][at] = BAD_TOKEN
    model = running(poisoned(MODEL, "embedding", value=wrong), backend=BACKENDS[mode](), **options)
    bad_cache = model.new_cache(len(rows), 30)
    error = failure(model.step, *ragged(rows, [0] * len(rows)), bad_cache, logits_at=last_B1)
    others = np.arange(len(rows)) != bad
    assert error.rows == (bad,)
    assert error.causes == {bad: NonFiniteCause(at, None, "embedding")}
    assert is_bad(error.logits) == (~others).tolist()
    assert_agrees(error.logits[others], expected_B1V[others], scale=np.ptp(expected_B1V))
    assert bad_cache.length_B.tolist() == np.where(others, lengths, 0).tolist()

    # The others go on, and the row begins anew with a good request.
    new = [np.array([7]) if row != bad else rows_of([9], seed=50)[0] for row in range(len(rows))]
    starts = np.where(others, lengths, 0)
    cache.discard(starts, lambda tree: tree)
    expected_BTV = good.step(*ragged(new, starts), cache)
    logits_BTV = model.step(*ragged(new, starts), bad_cache)
    assert_agrees(logits_BTV, expected_BTV, scale=np.ptp(expected_BTV))


@every_mode
def test_padding_takes_no_part(mode):
    """Padding may have any id, that of a bad embedding too."""
    model = running(poisoned(MODEL, "embedding", token=0), backend=BACKENDS[mode]())
    token_BT, position_BT = ragged([[1, 45, 30], [5], []], [0, 0, 0])
    logits = [
        model.step(np.where(position_BT < 0, padding, token_BT), position_BT, model.new_cache(3, 8))
        for padding in (0, 3)
    ]
    assert np.isfinite(logits[0][position_BT >= 0]).all()
    np.testing.assert_array_equal(*(each[position_BT >= 0] for each in logits))


@every_mode
@settings(max_examples=12)
@given(st.data(), st.sampled_from([("k_ZKQ", np.nan), ("v_ZKC", np.nan), ("v_ZKC", -np.inf)]))
def test_a_bad_cache_ends_its_row_alone(mode, data, poison):
    layer, bad = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 3))
    idle = data.draw(st.integers(0, 3))
    model = running(MODEL, backend=BACKENDS[mode]())
    rows = rows_of([4, 6, 5, 6])
    new = [[] if row == idle else [5] for row in range(4)]
    starts = [4, 6, 5, 6]
    caches = [model.new_cache(4, 12) for _ in range(2)]
    for cache in caches:
        model.step(*ragged(rows, [0] * 4), cache)
    expected_B1V = model.step(*ragged(new, starts), caches[0])
    position = starts[bad] - 1
    poisoned_cache(caches[1], layer, poison[0], row=bad, position=position, value=poison[1])
    others = np.arange(4) != bad
    lengths_B = caches[0].length_B.copy()
    if bad == idle:  # nobody looks at its cache
        logits_B1V = model.step(*ragged(new, starts), caches[1])
    else:
        error = failure(model.step, *ragged(new, starts), caches[1])
        eager = NonFiniteCause(position, layer, "KV cache")
        static = NonFiniteCause(starts[bad], layer, "decoder layer")
        assert error.causes == {bad: eager if mode == "eager" else static}
        assert not caches[1].nonfinite_rows(9).any()
        logits_B1V, lengths_B[bad] = error.logits, 0  # what the row held is bad, and lost
    np.testing.assert_array_equal(caches[1].length_B, lengths_B)
    # An expert that has a token more may add in another order: not to the bit.
    assert_agrees(logits_B1V[others], expected_B1V[others], scale=np.ptp(expected_B1V))


NAN = np.array([np.nan], ml_dtypes.bfloat16)  # a scale


@pytest.mark.parametrize("dtype", CODED, ids=str)
def test_a_bad_row_of_codes_is_named(dtype):
    """What was NaN when it was rounded, or has become so since, in an embedding or a cache."""
    model, rows = running(MODEL, cache_dtype=dtype), rows_of([4, 6])
    cache = model.new_cache(2, 12)
    model.step(*ragged(rows, [0, 0]), cache)
    cache.layers[1].v_ZKC[cache.slots[1] + 5, 0, -2:] = NAN.view(dtype)
    assert cache.nonfinite_rows(9).tolist() == [False, True]
    error = failure(model.step, *ragged([[5], [5]], [4, 6]), cache)
    assert error.causes == {1: NonFiniteCause(5, 1, "KV cache")}
    bad = running(poisoned(MODEL, "embedding"), cache_dtype=dtype)
    error = failure(bad.step, *ragged([[5], [BAD_TOKEN]], [0, 0]), bad.new_cache(2, 12))
    assert {row: cause.part for row, cause in error.causes.items()} == {1: "embedding"}


ARISES = [  # a poisoned weight; the part that is named; its layer and expert
    ("w_q_OD", "attention projections", SPARSE, None),
    ("w_k_OD", "attention projections", SPARSE, None),
    ("w_v_OD", "attention projections", SPARSE, None),
    ("attention_norm_D", "attention projections", SPARSE, None),
    ("sink_H", "attention", SPARSE, None),
    ("w_o_DI", "attention output", SPARSE, None),
    ("feed_forward_norm_D", "router", SPARSE, None),
    ("w_router_ED", "router", SPARSE, None),
    ("bias_E", "router", SPARSE, None),
    ("w_down_DF", "dense FFN", DENSE, None),
    ("experts", "expert FFN", SPARSE, 4),
    ("final_norm_D", "head", None, None),
    ("w_logits_VD", "head", None, None),
]


@pytest.mark.parametrize(("weight", "part", "layer", "expert"), ARISES, ids=[a[0] for a in ARISES])
def test_the_tensor_where_it_arises_is_named(weight, part, layer, expert):
    bad = poisoned(MODEL, weight, layer=layer, expert=expert)
    token_BT = random_tokens(MODEL, 6, 9)
    error = failure(running(bad).forward, token_BT)
    assert len(error.rows) > len(error.causes) == 4
    for cause in error.causes.values():
        assert (cause.layer, cause.part, cause.expert) == (layer, part, expert)
        assert cause.position is not None
    assert f"row 0: {error.causes[0]}; row 1" in str(error)
    assert str(error).endswith(f"and {len(error.rows) - 4} more rows")
    assert failure(running(bad).greedy, *ragged(token_BT, [0] * 6), running(bad).new_cache(6, 9))


def test_an_expert_is_named_as_the_checkpoint_numbers_it():
    model = running(poisoned(MODEL, "experts", layer=SPARSE, expert=4), expert_subset=[1, 4, 6])
    cause = failure(model.forward, [[1, 2, 3]]).causes[0]
    assert cause == NonFiniteCause(0, SPARSE, "expert FFN", 4)
    assert str(cause) == "expert FFN, expert 4, layer 1, position 0"


@every_mode
@settings(max_examples=12)
@given(st.data())
def test_a_bad_expert_ends_the_rows_that_choose_it_alone(mode, data):
    layer, expert = data.draw(st.sampled_from([1, 3, 4])), data.draw(st.integers(0, 6))
    model = running(MODEL, backend=BACKENDS[mode]())
    bad_model = running(
        poisoned(MODEL, "experts", layer=layer, expert=expert), backend=BACKENDS[mode]()
    )
    rows = rows_of([1] * 6, seed=data.draw(st.integers(0, 999)))
    expected_BTV = model.forward(rows)
    error = error_of(bad_model, rows)
    bad = list(error.rows) if error else []
    logits_BTV = error.logits if error else bad_model.forward(rows)
    if error and mode == "eager":
        assert {cause.expert for cause in error.causes.values()} == {expert}
    # A row alone chooses what it chooses in the batch.
    assert bad == [row for row in range(6) if error_of(bad_model, [rows[row]])]
    others = np.delete(np.arange(6), bad)
    assert_agrees(logits_BTV[others], expected_BTV[others], scale=np.ptp(expected_BTV))


def error_of(model, rows) -> NonFiniteError | None:
    try:
        model.forward(rows)
    except NonFiniteError as error:
        return error
    return None


def test_greedy_gives_the_tokens_of_the_other_rows():
    model, rows = running(poisoned(MODEL, "embedding")), rows_of([3, 3, 3])
    step = ragged(rows, [0] * 3)
    expected_Bn, _ = running(MODEL).greedy(*step, model.new_cache(3, 9))
    step[0][1, 2] = BAD_TOKEN
    token_Bn, logit_Bn = failure(model.greedy, *step, model.new_cache(3, 9)).outputs
    assert token_Bn[1].tolist() == [-1] * 3
    assert is_bad(logit_Bn) == [False, True, False]
    np.testing.assert_array_equal(token_Bn[[0, 2]], expected_Bn[[0, 2]])


def test_generate_says_which_prompt_and_where():
    model = running(poisoned(MODEL, "embedding"))
    for sampling in ({"temperature": 0}, {"temperature": 1.0}):
        with pytest.raises(ValueError, match=r"infinity in row 1: embedding, position 2$"):
            model.generate([[1, 2], [3, 4, BAD_TOKEN, 5], [6]], **sampling)


def test_a_view_names_its_rows():
    model, rows = running(poisoned(MODEL, "embedding")), rows_of([3, 3, 3])
    cache = model.new_cache(3, 9)
    rows[2][1] = BAD_TOKEN
    model.step(*ragged(rows[:1], [0]), cache.view(0, 1))
    error = failure(model.step, *ragged(rows[1:], [0, 0]), cache.view(1, 3))
    assert error.causes == {1: NonFiniteCause(1, None, "embedding")}
    assert cache.length_B.tolist() == [3, 3, 0]


def test_a_draft_that_is_bad_leaves_nothing_behind():
    """Logits of earlier tokens alone are wanted: the row is bad all the same, and then as new."""
    model = running(poisoned(MODEL, "embedding"), max_step=1)  # no 0 x NaN within a pass
    cache, row = model.new_cache(1, 30), rows_of([5])[0]
    expected_TV = running(MODEL).forward([row])[0]
    error = failure(model.step, *ragged([[1, 2, BAD_TOKEN]], [0]), cache, logits_at=[[0]])
    assert error.causes == {0: NonFiniteCause(2, None, "embedding")}
    for part in cache.layers[0][:2]:
        assert np.isfinite(part[:30]).all()
    assert_agrees(model.step(*ragged([row], [0]), cache)[0], expected_TV)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@given(
    st.lists(
        st.lists(st.sampled_from([0, 1.5, -7, np.nan, np.inf, -np.inf]), min_size=3, max_size=3),
        min_size=0,
        max_size=4,
    )
)
def test_every_part_is_looked_at(dtype, values):
    x_ND = np.array(values, dtype).reshape(-1, 3)
    expected = [any(not np.isfinite(v) for v in part) for part in values]
    assert has_nonfinite(x_ND).tolist() == expected


@pytest.mark.parametrize("fault", [MissingProgramError, ChildProcessError])
def test_a_row_that_cannot_run_again_is_named_without_a_part(fault):
    """A row alone has shapes of its own: a backend may have no programs for them."""
    error = run_again_with(fault("program is not compiled, and compilation is disabled"))
    assert isinstance(error, NonFiniteError)
    assert error.causes == {1: NonFiniteCause(None, None, "hidden states")}
    assert is_bad(error.logits) == [False, True, False]


@pytest.mark.parametrize("fault", [ValueError, OSError, KeyError])
def test_any_other_fault_of_the_second_run_is_raised(fault):
    error = fault("a fault of the program")
    assert run_again_with(error) is error


def run_again_with(fault: Exception) -> Exception:
    """Return what a step with a bad row raises, if the row's second run raises `fault`."""

    class Compiled(StaticBackend):
        def compile(self, function, *, donate=None):
            def program(*args, **kwargs):
                if len(args[0]) == len(rows):  # tokens of the row alone, padded
                    raise fault
                return function(*args, **kwargs)

            return program

    model = running(poisoned(MODEL, "embedding"), backend=Compiled(), max_step=12)
    rows = rows_of([4, 1, 4])
    rows[1][0] = BAD_TOKEN
    with pytest.raises(Exception) as raised:  # noqa: PT011  # which one is what is tested
        model.step(*ragged(rows, [0] * 3), model.new_cache(3, 9))
    return raised.value
