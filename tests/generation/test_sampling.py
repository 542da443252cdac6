"""sampling: the filters of transformers, draws that follow them, and independent rows."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mimo_v2_flash.generation import sampling
from mimo_v2_flash.generation.sampling import Sampler, SamplingParams, distribution
from mimo_v2_flash.kernels import sampling as kernels

PLAIN, PENALISED = SamplingParams(temperature=1.0), SamplingParams(repetition_penalty=2.0)
# The 99.9 % quantile of the chi-squared distribution, by degrees of freedom (standard tables).
CRITICAL = {2: 13.816, 3: 16.266, 5: 20.515, 7: 24.322}
FILTERS = {8: {"temperature": 2}, 6: {"top_k": 6}, 4: {"top_p": 0.8}, 3: {"min_p": 0.3}}


def logits(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def draws(sampler: Sampler, logits_NV, rows, count: int) -> np.ndarray:
    return np.array([sampler.draw(logits_NV, rows, [()] * len(rows)) for _ in range(count)])


def agree(logits_V, chosen: SamplingParams, history) -> None:
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    steps = [
        process.RepetitionPenaltyLogitsProcessor(chosen.repetition_penalty),
        process.TemperatureLogitsWarper(chosen.temperature),
        process.TopKLogitsWarper(chosen.top_k or len(logits_V)),
        process.TopPLogitsWarper(chosen.top_p),
        process.MinPLogitsWarper(chosen.min_p),
    ]
    scores, tokens = torch.tensor(np.float64(logits_V))[None], torch.tensor([list(history)])
    for step in steps:
        scores = step(tokens, scores)
    actual_V = np.zeros(len(logits_V))
    token_A, probability_A = distribution(logits_V, chosen, history)
    actual_V[token_A] = probability_A
    np.testing.assert_allclose(actual_V, scores.softmax(dim=-1)[0].numpy(), atol=1e-6)


def far_from_edges(logits_V, chosen: SamplingParams, history) -> bool:
    _, every_V = distribution(logits_V, replace(chosen, top_k=0, top_p=1.0, min_p=0.0), history)
    every_V = np.sort(every_V)[::-1]
    top = np.cumsum(every_V[: chosen.top_k or None])
    gaps = [1 - every_V[1:] / every_V[:-1], top[:-1] / top[-1] - chosen.top_p]
    gaps.append(every_V / every_V[0] - chosen.min_p)
    return bool(np.min(np.abs(np.concatenate(gaps))) > 1e-9)


@settings(deadline=None)
@given(
    values=st.lists(st.integers(-99, 99), unique=True, min_size=2, max_size=30),
    temperature=st.floats(0.5, 5),
    top_k=st.integers(0, 32),
    top_p=st.floats(0.01, 1),
    min_p=st.sampled_from([0, 0.02, 0.3, 0.99]),
    repetition_penalty=st.sampled_from([0.7, 1.0, 1.3]),
    history=st.lists(st.integers(0, 29), min_size=1),
)
def test_equals_transformers(values, history, **chosen):
    logits_V, history = logits(*values) / 16, [token % len(values) for token in history]
    chosen = SamplingParams(**chosen)
    assume(far_from_edges(logits_V, chosen, history))
    agree(logits_V, chosen, history)


@pytest.mark.parametrize("top_k", [0, 50])
def test_equals_transformers_on_the_whole_vocabulary(top_k):
    random = np.random.default_rng(0)
    logits_V = random.permutation(np.linspace(-9, 9, 152_576)).astype(np.float32) ** 3 / 40
    chosen = SamplingParams(temperature=0.8, top_k=top_k, top_p=0.95, min_p=1e-3)
    agree(logits_V, chosen, [0])


@pytest.mark.parametrize(("left", "chosen"), FILTERS.items())
def test_draws_follow_the_distribution(left, chosen):
    logits_V = logits(0, 1.5, -np.inf, -1, 2, 0.5, 0.9, -0.3, 0.1)
    token_A, probability_A = distribution(logits_V, replace(PLAIN, **chosen))
    drawn = draws(Sampler(replace(PLAIN, **chosen), 7), logits_V[None], [3], 6000)
    count_A, expected_A = np.sum(drawn == token_A, axis=0), 6000 * probability_A
    assert (len(token_A), np.sum(count_A)) == (left, 6000)
    assert np.sum((count_A - expected_A) ** 2 / expected_A) < CRITICAL[left - 1]


def test_a_row_draws_the_same_alone_and_whoever_stops():
    logits_NV = np.random.default_rng(1).standard_normal((3, 1000)).astype(np.float32)
    together, sampler = draws(Sampler(PLAIN, 5), logits_NV, [0, 4, 9], 20), Sampler(PLAIN, 5)
    draws(sampler, logits_NV, [0, 4, 9], 8)
    rest = draws(sampler, logits_NV[[2, 0]], [9, 0], 12)
    np.testing.assert_array_equal(rest, together[8:, [2, 0]])
    alone = draws(Sampler(PLAIN, 5), logits_NV[1:2], [4], 20)
    np.testing.assert_array_equal(alone, together[:, 1:2])


@pytest.mark.parametrize(("one", "two"), [((5, 0), (6, 0)), ((5, 0), (5, 1)), ((2**32, 0), (0, 1))])
def test_seeds_and_rows_have_streams_of_their_own(one, two):
    flat = np.zeros((1, 9999), np.float32)
    streams = [draws(Sampler(PLAIN, seed), flat, [row], 30) for seed, row in (one, one, two)]
    np.testing.assert_array_equal(streams[0], streams[1])
    assert np.mean(streams[0] == streams[2]) < 0.1


def test_every_token_takes_one_number_however_certain_it_is():
    sampler, stream = Sampler(PLAIN, 3), np.random.SeedSequence(3).spawn(3)[2]
    draws(sampler, logits(0, -np.inf)[None], [2], 1)
    expected = int(np.random.default_rng(stream).random(2)[1] * 1000)
    assert draws(sampler, np.zeros((1, 1000), np.float32), [2], 1) == expected


def test_the_largest_random_number_draws_the_last_token(monkeypatch):
    monkeypatch.setattr(Sampler, "_stream", lambda *_: SimpleNamespace(random=lambda: 1 - 2**-53))
    for last in range(1, 3000, 50):
        assert draws(Sampler(PLAIN, 0), np.zeros((1, last + 1), np.float32), [0], 1) == last


LIMITS = [{"top_p": 1e-300}, {"top_k": 1}, {"min_p": 0.9999}, {"temperature": 5e-324}]
LIMITS += [{"top_p": 0}, {"top_k": 1.0}, {"min_p": 1}]


@pytest.mark.parametrize("chosen", LIMITS)
def test_limits_are_greedy(chosen):
    logits_NV = np.random.default_rng(2).standard_normal((40, 60)).astype(np.float32)
    drawn = draws(Sampler(replace(PLAIN, **chosen), 0), logits_NV, range(40), 1)
    np.testing.assert_array_equal(drawn[0], np.argmax(logits_NV, axis=-1))


def test_greedy_draws_no_random_number(monkeypatch):
    monkeypatch.setattr(sampling.np.random, "SeedSequence", None)
    token_N = Sampler(SamplingParams(), 0).draw(logits(1, 3, 3, 2)[None], [0], [()])
    assert (token_N.dtype, token_N.tolist()) == (np.int32, [1])
    with pytest.raises(TypeError):
        Sampler(PLAIN, 0).draw(logits(1, 3)[None], [0], [()])


SAME = [({"top_k": -1}, {"top_k": 0}), ({"top_k": 20.0}, {"top_k": 20}), ({"top_k": 99}, {})]


@pytest.mark.parametrize(("chosen", "same"), SAME)
def test_what_other_libraries_write_means_the_same(chosen, same):
    logits_V = np.random.default_rng(4).standard_normal(60).astype(np.float32)
    actual, expected = (distribution(logits_V, replace(PLAIN, **c)) for c in (chosen, same))
    np.testing.assert_array_equal(actual, expected)


TIES = [
    ({"top_p": 0}, [1]),
    ({"top_k": 3}, [1, 0, 2]),
    ({"top_k": 2}, [1, 0]),
    ({"top_p": 0.7}, [1, 0, 2]),
]


@pytest.mark.parametrize(("chosen", "kept"), TIES)
def test_ties_keep_the_lowest_ids(chosen, kept):
    token_A, _ = distribution(logits(1, 2, 1, 1, -9), replace(PLAIN, **chosen))
    assert token_A.tolist() == kept


def test_penalty_counts_a_token_once_and_comes_before_greedy():
    batch = np.stack([logits(3, 2, -1), logits(3, 1, -1), logits(-2, -3, -3.5)])
    assert [*Sampler(PENALISED, 0).draw(batch, [0, 1, 2], [[0, 0], [0] * 3, [0]])] == [1, 0, 1]


def test_the_k_best_alone_draw_the_tokens_of_the_whole_row():
    logits_NV = np.random.default_rng(3).standard_normal((30, 400)).astype(np.float32)
    chosen = SamplingParams(temperature=0.9, top_k=20, top_p=0.8, min_p=0.01)
    best_NA, token_NA = kernels.top_k(logits_NV, k=20)
    (index_N,) = draws(Sampler(chosen, 0), best_NA, range(30), 1)
    (expected_N,) = draws(Sampler(chosen, 0), logits_NV, range(30), 1)
    np.testing.assert_array_equal(token_NA[np.arange(30), index_N], expected_N)


BAD = [("top_k", [-2, 1.5, True, None, np.nan, np.inf]), ("top_p", [-0.1, 1.01, np.nan, True, "1"])]
BAD += [("temperature", [-0.1, np.nan, np.inf, False, "hot"]), ("min_p", [-0.1, 1.01, np.nan])]
BAD += [("repetition_penalty", [0, -1, np.nan, np.inf, True])]


@pytest.mark.parametrize(("name", "value"), [(name, v) for name, values in BAD for v in values])
def test_settings_that_mean_nothing_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} is {value!r}, allowed is .*[>(\\[]"):
        SamplingParams(**{name: value})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("temperature", [0, 1])
def test_unusable_logits_name_their_row_before_any_row_draws(bad, temperature):
    chosen, good = SamplingParams(temperature), np.zeros(1000, np.float32)
    sampler, broken = Sampler(chosen, 0), np.full(1000, bad, np.float32)
    broken[0] = bad if bad == -np.inf else 0
    with pytest.raises(ValueError, match="row 7 hold"):
        sampler.draw(np.stack([good, broken]), [4, 7], [(), ()])
    assert draws(sampler, good[None], [4], 1) == draws(Sampler(chosen, 0), good[None], [4], 1)


REFUSED = [
    *[("seed is", lambda seed=seed: Sampler(PLAIN, seed)) for seed in (-1, 1.0, True)],
    ("logits_NV is", lambda: draws(Sampler(PLAIN, 0), logits(1, 2), [0, 1], 1)),
    ("1 rows and 2 histories", lambda: Sampler(PLAIN, 0).draw(np.ones((1, 3)), [0], [(), ()])),
    ("logits_NV is", lambda: draws(Sampler(PLAIN, 0), np.ones((2, 3)), [0], 1)),
    (r"outside \[0, 2\)", lambda: distribution(logits(1, 2), PENALISED, [-1])),
    (r"outside \[0, 2\)", lambda: distribution(logits(1, 2), PENALISED, [0, 2])),
    (r"\+inf", lambda: distribution(logits(1e30), replace(PLAIN, repetition_penalty=1e-300), [0])),
]


@pytest.mark.parametrize(("words", "call"), REFUSED)
def test_arguments_that_mean_nothing_are_refused(words, call):
    with pytest.raises(ValueError, match=words):
        call()
