"""sampler: the filters of transformers, draws that follow them, rows that do not meet."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mimo_v2_flash.engine import sampler as module
from mimo_v2_flash.engine.sampler import NO_TOKEN, Draw, Sampler, process_logits, scale, thresholds
from mimo_v2_flash.engine.sampling_params import SamplingParams
from tests.support.drawn import seeds
from tests.support.engine_sampling import draws_of, probabilities, processed, token_of

PLAIN = SamplingParams(temperature=1.0)
# The 99.9 % quantile of the chi-squared distribution, by degrees of freedom (standard tables).
CRITICAL = {2: 13.816, 3: 16.266, 5: 20.515, 7: 24.322}
FILTERS = {8: {"temperature": 2}, 6: {"top_k": 6}, 4: {"top_p": 0.8}, 3: {"min_p": 0.3}}
temperatures = st.sampled_from([0.0, 0.3, 1.0, 2.5])
penalties = st.sampled_from([0.0, 0.0, 0.7, -1.5])


@st.composite
def draws(draw, V: int) -> Draw:
    """Draw what a row's choice depends on, everything on or off."""
    tokens = st.lists(st.integers(0, V - 1), max_size=8)
    params = SamplingParams(
        temperature=draw(temperatures),
        top_k=draw(st.sampled_from([0, 1, 2, V // 2, V, V + 9])),
        top_p=draw(st.sampled_from([0.0, 0.3, 0.9, 1.0])),
        min_p=draw(st.sampled_from([0.0, 0.02, 0.4, 1.0])),
        repetition_penalty=draw(st.sampled_from([0.7, 1.0, 1.3])),
        presence_penalty=draw(penalties),
        frequency_penalty=draw(penalties),
        logit_bias=draw(st.dictionaries(st.integers(0, V - 1), st.floats(-5, 5), max_size=3)),
    )
    mask_V = None
    if draw(st.booleans()):
        mask_V = np.array(draw(st.lists(st.booleans(), min_size=V, max_size=V)), bool)
    answer, position = draw(st.integers(0, 9)), draw(st.integers(0, 999))
    forbidden = draw(st.lists(st.integers(0, V - 1), max_size=2))
    return Draw(
        params, draw(seeds), answer, position, draw(tokens), draw(tokens), forbidden, mask_V
    )


def logits(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def chosen(logits_V: np.ndarray, draw: Draw) -> int:
    return int(Sampler()(logits_V[None], [draw])[0])


def survivors(logits_V: np.ndarray, draw: Draw) -> list[int]:
    """Return the tokens that bias, penalties, masks and filters leave."""
    scaled_1V = scale(process_logits(logits_V[None], [draw]), [draw.params])
    return np.flatnonzero(scaled_1V[0] >= thresholds(scaled_1V, [draw.params])).tolist()


def far_from_edges(logits_V, draw: Draw) -> bool:
    """Return whether no token is so near to the edge of a filter that float32 may decide."""
    free = replace(draw, params=replace(draw.params, top_k=0, top_p=1.0, min_p=0.0))
    every_V = np.sort(probabilities(logits_V, free))[::-1]
    every_V = every_V[every_V > 0]
    top = np.cumsum(every_V[: draw.params.top_k or None])
    gaps = [1 - every_V[1:] / every_V[:-1], top[:-1] / top[-1] - draw.params.top_p]
    gaps.append(every_V / every_V[0] - draw.params.min_p)
    return bool(np.min(np.abs(np.concatenate(gaps))) > 1e-5)


@given(st.integers(2, 40), seeds, st.data())
def test_bias_penalties_and_masks_are_those_of_their_sources(V, seed, data):
    draw = data.draw(draws(V))
    logits_V = np.random.default_rng(seed).standard_normal(V).astype(np.float32) * 3
    actual_V = process_logits(logits_V[None], [draw])[0]
    np.testing.assert_allclose(actual_V, processed(logits_V, draw), rtol=1e-5, atol=1e-5)


@given(st.integers(2, 40), seeds, st.data())
def test_survivors_and_tokens_are_those_of_transformers(V, seed, data):
    draw = data.draw(draws(V).filter(lambda draw: draw.params.temperature > 0))
    logits_V = np.random.default_rng(seed).standard_normal(V).astype(np.float32) * 3
    assume(np.max(processed(logits_V, draw)) > -np.inf)
    assume(far_from_edges(logits_V, draw))
    expected_V = probabilities(logits_V, draw)
    assert survivors(logits_V, draw) == np.flatnonzero(expected_V).tolist()
    assert chosen(logits_V, draw) == token_of(expected_V, draw)


@pytest.mark.parametrize("V", [600, 20_000, 152_576])
@pytest.mark.parametrize("top_k", [0, 50, 5000])
@pytest.mark.parametrize("top_p", [0.95, 0.9999])
def test_it_is_transformers_on_a_whole_vocabulary(V, top_k, top_p):
    random = np.random.default_rng(0)
    logits_V = (random.permutation(np.linspace(-9, 9, V)) ** 3 / 40).astype(np.float32)
    params = SamplingParams(temperature=0.8, top_k=top_k, top_p=top_p, min_p=1e-4)
    draw = Draw(params, 3, 0, 11)
    expected_V = probabilities(logits_V, draw)
    assert survivors(logits_V, draw) == np.flatnonzero(expected_V).tolist()
    assert chosen(logits_V, draw) == token_of(expected_V, draw)


def test_filters_are_the_same_however_many_logits_are_sorted_first(monkeypatch):
    logits_RV = np.random.default_rng(1).standard_normal((6, 3000)).astype(np.float32)
    settings = [{"top_p": p, "top_k": k} for p in (0.2, 0.9, 1.0) for k in (0, 40)]
    params = [replace(PLAIN, **each) for each in settings]
    expected_R = thresholds(scale(logits_RV, params), params)
    for first in (1, 3, 3000, 10_000):
        monkeypatch.setattr(module, "FIRST_CANDIDATES", first)
        np.testing.assert_array_equal(thresholds(scale(logits_RV, params), params), expected_R)


@given(st.integers(1, 6), st.integers(2, 90), seeds, st.data())
def test_a_row_is_chosen_as_if_it_were_alone(R, V, seed, data):
    rows = [data.draw(draws(V)) for _ in range(R)]
    logits_RV = np.random.default_rng(seed).standard_normal((R, V)).astype(np.float32) * 3
    before_RV, sampler = logits_RV.copy(), Sampler()
    together_R = sampler(logits_RV, rows)
    assert together_R.tolist() == [chosen(*row) for row in zip(logits_RV, rows, strict=True)]
    order = data.draw(st.permutations(range(R)))
    turned_R = sampler(logits_RV[order], [rows[row] for row in order])
    np.testing.assert_array_equal(turned_R, together_R[order])
    np.testing.assert_array_equal(logits_RV, before_RV)


@pytest.mark.parametrize(("left", "changed"), FILTERS.items())
def test_draws_follow_the_distribution(left, changed):
    logits_V = logits(0, 1.5, -np.inf, -1, 2, 0.5, 0.9, -0.3, 0.1)
    params, N = replace(PLAIN, **changed), 6000
    rows = draws_of(params, N)
    token_N = Sampler()(np.broadcast_to(logits_V, (N, 9)), rows)
    expected_V = N * probabilities(logits_V, rows[0])
    token_A = np.flatnonzero(expected_V)
    count_A = np.bincount(token_N, minlength=9)[token_A]
    assert (len(token_A), np.sum(count_A)) == (left, N)
    expected_A = expected_V[token_A]
    assert np.sum((count_A - expected_A) ** 2 / expected_A) < CRITICAL[left - 1]


def test_a_token_keeps_its_noise_whatever_else_survives():
    """The argmax over fewer tokens that include it is the same token: no order decides."""
    logits_NV = np.random.default_rng(2).standard_normal((200, 50)).astype(np.float32)
    free = [Draw(PLAIN, 5, 1, position) for position in range(200)]
    token_N = Sampler()(logits_NV, free)
    mask_V = np.ones(50, bool)
    mask_V[::2] = False
    for row, token in enumerate(token_N):
        masked = replace(free[row], mask_V=mask_V | (np.arange(50) == token))
        assert chosen(logits_NV[row], masked) == token


TIES = [
    ({"top_k": 3}, [0, 1, 2, 3]),
    ({"top_k": 2}, [0, 1, 2, 3]),
    ({"top_k": 1}, [1]),
    ({"top_p": 0.7}, [0, 1, 2, 3]),
    ({"top_p": 0.1}, [1]),
    ({"min_p": np.exp(-1) * 0.999}, [0, 1, 2, 3]),
]


@pytest.mark.parametrize(("changed", "kept"), TIES)
def test_equal_logits_survive_together(changed, kept):
    draw = Draw(replace(PLAIN, **changed), 0, 0, 0)
    assert survivors(logits(1, 2, 1, 1, -9), draw) == kept


@pytest.mark.parametrize(
    "changed",
    [{"top_p": 0}, {"top_p": 1e-300}, {"top_k": 1}, {"min_p": 1}, {"temperature": 5e-324}],
    ids=str,
)
def test_limits_are_greedy(changed):
    logits_NV = np.random.default_rng(2).standard_normal((40, 60)).astype(np.float32)
    rows = draws_of(replace(PLAIN, **changed), 40)
    np.testing.assert_array_equal(Sampler()(logits_NV, rows), np.argmax(logits_NV, axis=-1))


def test_of_equal_best_logits_greedy_takes_the_lowest_id_and_sampling_any():
    logits_V = logits(1, 3, 3, 2)
    assert chosen(logits_V, Draw(SamplingParams(), 0, 0, 0)) == 1
    cold = draws_of(replace(PLAIN, temperature=5e-324), 200)
    assert set(Sampler()(np.broadcast_to(logits_V, (200, 4)), cold)) == {1, 2}


def test_greedy_draws_no_random_number(monkeypatch):
    sampler = Sampler()
    monkeypatch.setattr(sampler, "_noise", None)
    assert sampler(logits(1, 3, 3, 2)[None], [Draw(SamplingParams(), 0, 0, 0)]).tolist() == [1]
    with pytest.raises(TypeError):
        sampler(logits(1, 3)[None], [Draw(PLAIN, 0, 0, 0)])


@pytest.mark.parametrize("temperature", [0, 5e-324, 1, 1e30])
@pytest.mark.parametrize("top_k", [0, 2])
def test_a_forbidden_token_is_never_chosen(temperature, top_k):
    mask_V = np.array([True, True, False, True, False, True])
    logits_V = logits(0, 1, 9, -2, 8, -np.inf)
    params = replace(PLAIN, temperature=temperature, top_k=top_k)
    rows = draws_of(params, 300, forbidden=[0], mask_V=mask_V)
    tokens = set(Sampler()(np.broadcast_to(logits_V, (300, 6)), rows))
    assert tokens <= {1, 3}
    assert 1 in tokens


def test_heat_makes_all_tokens_equal():
    rows = draws_of(replace(PLAIN, temperature=1e30), 3000)
    count_V = np.bincount(Sampler()(np.broadcast_to(logits(0, 5, -50, 9), (3000, 4)), rows))
    assert np.sum((count_V - 750.0) ** 2 / 750) < CRITICAL[3]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_where_all_is_forbidden_there_is_no_token(temperature):
    params = replace(PLAIN, temperature=temperature)
    nothing = Draw(params, 0, 0, 0, mask_V=np.zeros(3, bool))
    both = Draw(params, 0, 0, 0, forbidden=[1], mask_V=np.array([False, True, False]))
    free = Draw(params, 0, 0, 0)
    logits_RV = np.stack([logits(1, 5, 2)] * 4)
    token_R = Sampler()(logits_RV, [nothing, free, both, free])
    assert token_R.dtype == np.int64
    assert (token_R == NO_TOKEN).tolist() == [True, False, True, False]
    assert token_R[1] == token_R[3] == chosen(logits_RV[1], free)


PENALISED = SamplingParams(repetition_penalty=2.0)


def test_repetition_counts_a_token_once_and_comes_before_greedy():
    batch = np.stack([logits(3, 2, -1), logits(3, 1, -1), logits(-2, -3, -3.5)])
    rows = [Draw(PENALISED, 0, 0, 0, tokens) for tokens in ([0, 0], [0] * 3, [0])]
    assert Sampler()(batch, rows).tolist() == [1, 0, 1]


def test_presence_and_frequency_count_the_answer_and_not_the_prompt():
    params = SamplingParams(presence_penalty=0.5, frequency_penalty=0.25)
    draw = Draw(params, 0, 0, 0, prompt_tokens=[0, 0, 1], new_tokens=[1, 2, 2])
    actual_1V = process_logits(logits(1, 1, 1, 1)[None], [draw])
    assert actual_1V.tolist() == [[1, 0.25, 0, 1]]


@pytest.mark.parametrize("bias", [-1e30, -100.0])
def test_a_bias_can_forbid(bias):
    draw = Draw(replace(PLAIN, logit_bias={1: bias}), 0, 0, 0)
    assert chosen(logits(0, 60, -5), draw) in {0, 2}


@pytest.mark.parametrize(
    "changed",
    [
        {"logit_bias": {1: 1e30}},
        {"presence_penalty": -1e30},
        {"frequency_penalty": -1e30},
        {"repetition_penalty": 1e-30},
    ],
    ids=str,
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_largest_numbers_make_their_token_certain(changed, temperature):
    params = replace(PLAIN, temperature=temperature, **changed)
    draw = Draw(params, 0, 0, 0, new_tokens=[1, 1])
    assert chosen(logits(3, 1, 2), draw) == 1


@pytest.mark.parametrize(
    "changed",
    [{"presence_penalty": 1e30}, {"frequency_penalty": 1e30}, {"repetition_penalty": 1e30}],
    ids=str,
)
def test_the_largest_penalties_leave_the_others(changed):
    draw = Draw(replace(PLAIN, **changed), 0, 0, 0, new_tokens=[1, 1])
    assert chosen(logits(-3, 0, -200), draw) in {0, 1, 2}
    assert chosen(logits(-3, -1, -200), draw) == 0


HEADS = {
    "the same distribution": (0, 1.5, -np.inf, -1, 2, 0.5, 0.9, -0.3, 0.1),
    "another one": (2, -1, 0, 1.5, -2, 0.5, 0, 3, 0.1),
    "nearly uniform": tuple(token / 100 for token in range(9)),
    "never what is likely": (0, -9, 3, -1, -9, 0.5, 0.9, -0.3, 0.1),
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("left", "changed"), FILTERS.items())
def test_verified_drafts_follow_the_models_distribution(left, changed, head):
    logits_V, head_V = logits(0, 1.5, -np.inf, -1, 2, 0.5, 0.9, -0.3, 0.1), logits(*HEADS[head])
    params, N = replace(PLAIN, **changed), 6000
    rows, sampler = draws_of(params, N), Sampler()
    drafts = sampler.draft(np.broadcast_to(head_V, (N, 9)), rows)
    rows = [replace(row, draft=draft) for row, draft in zip(rows, drafts, strict=True)]
    token_N = sampler(np.broadcast_to(logits_V, (N, 9)), rows)
    p_V, q_V = (probabilities(each_V, rows[0]) for each_V in (logits_V, head_V))
    token_A = np.flatnonzero(p_V)
    count_A, expected_A = np.bincount(token_N, minlength=9)[token_A], N * p_V[token_A]
    assert (len(token_A), np.sum(count_A)) == (left, N)
    assert np.sum((count_A - expected_A) ** 2 / expected_A) < CRITICAL[left - 1]
    accepted = np.mean([draft.token == token for draft, token in zip(drafts, token_N, strict=True)])
    share = np.sum(np.minimum(p_V, q_V))
    assert abs(accepted - share) < 4 * np.sqrt(max(share * (1 - share), 1e-3) / N)


def test_a_draft_of_a_seed_is_the_token_where_head_and_model_agree():
    logits_NV = np.random.default_rng(0).standard_normal((40, 9)).astype(np.float32)
    rows, sampler = draws_of(replace(PLAIN, seed=7), 40), Sampler()
    drafts = sampler.draft(logits_NV, rows)
    assert {draft.token_A for draft in drafts} == {None}
    assert [draft.token for draft in drafts] == sampler(logits_NV, rows).tolist()
    greedy = draws_of(replace(PLAIN, temperature=0.0), 40)
    for draft, best in zip(sampler.draft(logits_NV, greedy), np.argmax(logits_NV, 1), strict=True):
        assert (draft.token, draft.token_A) == (best, None)


def test_what_makes_up_for_a_refused_draft_does_not_depend_on_its_noise():
    """The draft's own noise would favour the tokens that it has passed over."""
    N, p_V, q_V = 6000, logits(0, 0, 0, 0), logits(9, 0, 0, 0)
    rows, sampler = draws_of(PLAIN, N), Sampler()
    drafts = sampler.draft(np.broadcast_to(q_V, (N, 4)), rows)
    rows = [replace(row, draft=draft) for row, draft in zip(rows, drafts, strict=True)]
    count_V = np.bincount(sampler(np.broadcast_to(p_V, (N, 4)), rows), minlength=4)
    assert np.sum((count_V - N / 4) ** 2 / (N / 4)) < CRITICAL[3]
