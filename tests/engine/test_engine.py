"""engine: answers, their ends and their errors; what is refused."""

import numpy as np
import pytest

from mimo_v2_flash.engine import Engine, SamplingParams
from tests.support.engine_constraints import FailingConstraint, FixedMask, TrieConstraint
from tests.support.engine_model import HistoryModel, logits_after
from tests.support.engine_oracle import (
    answer_alone,
    prompt_logprobs_alone,
    step_until_idle,
    together,
)

V, LENGTH = 23, 40
GREEDY, SHORT = SamplingParams(), SamplingParams(max_tokens=3)


def after(tokens) -> np.ndarray:
    return logits_after(tokens, V)


def greedy_tokens(prompt, count: int) -> list[int]:
    """Return the argmax after each token, by nothing but the model's logits."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(np.argmax(after(tokens))))
    return tokens[len(prompt) :]


def alone(prompt, params, **options):
    return answer_alone(after, prompt, params, max_length=LENGTH, **options)


def engine_of(rows: int = 4, model: HistoryModel | None = None, **options) -> Engine:
    return Engine(model or HistoryModel(V, LENGTH), rows, **options)


def result_of(prompt, params=SHORT, *, model=None, **options):
    engine = engine_of(model=model)
    id_ = engine.submit(prompt, params, **options)
    return engine.run()[id_]


def test_the_default_is_greedy_to_the_end_of_the_context():
    result = result_of([5, 6], None)
    assert result.tokens == greedy_tokens([5, 6], LENGTH - 1)
    assert (result.finish_reason, result.logprobs, result.prompt_logprobs) == ("length", None, None)
    assert len(result.answers) == 1


@pytest.mark.parametrize("length", [1, LENGTH - 1, LENGTH])
def test_the_last_token_of_the_context_is_not_fed_back(length):
    prompt = [3] * length
    result = result_of(prompt, GREEDY)
    assert result.tokens == greedy_tokens(prompt, LENGTH - length + 1)


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_max_tokens_is_the_most(count):
    result = result_of([9, 1], SamplingParams(max_tokens=count))
    assert (result.tokens, result.finish_reason) == (greedy_tokens([9, 1], count), "length")


def test_no_tokens_still_give_the_prompts_logprobs():
    result = result_of([9, 1, 4], SamplingParams(max_tokens=0, prompt_logprobs=2))
    assert result.tokens == []
    assert result.prompt_logprobs == prompt_logprobs_alone(after, [9, 1, 4], 2)


@pytest.mark.parametrize("length", [1, 2, LENGTH, LENGTH + 1])
def test_the_last_token_of_a_prompt_that_is_only_scored_is_not_computed(length):
    prompt, model = (
        np.random.default_rng(0).integers(0, V, length).tolist(),
        HistoryModel(V, LENGTH),
    )
    result = result_of(prompt, SamplingParams(max_tokens=0, prompt_logprobs=0), model=model)
    assert (result.tokens, result.finish_reason) == ([], "length")
    assert result.prompt_logprobs == prompt_logprobs_alone(after, prompt, 0)
    assert sum(int(np.sum(position_BT >= 0)) for _, position_BT in model.steps) == length - 1


def test_scores_of_a_prompt_are_in_the_events_of_its_steps():
    engine, prompt = engine_of(prefill_chunk=3), [7, 3, 3, 0, 22, 8, 1]
    engine.submit(prompt, SamplingParams(max_tokens=2, prompt_logprobs=1))
    events = step_until_idle(engine)
    scored = [event.prompt_logprobs for event in events if event.prompt_logprobs]
    assert [len(each) for each in scored] == [3, 3]
    assert [*scored[0], *scored[1]] == prompt_logprobs_alone(after, prompt, 1)
    assert together(events)[0, 0].tokens == greedy_tokens(prompt, 2)


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_prompt_logprobs_of_any_chunks_are_those_of_the_prompt(length, chunk):
    prompt = [7, 3, 3, 0, 22, 8, 1][:length]
    engine = engine_of(prefill_chunk=chunk)
    params = SamplingParams(max_tokens=1, prompt_logprobs=3, logprobs=1)
    id_ = engine.submit(prompt, params)
    other = engine.submit([1] * 9, SHORT)
    results = engine.run()
    assert results[id_].prompt_logprobs == prompt_logprobs_alone(after, prompt, 3)
    assert results[id_].logprobs == alone(prompt, params).logprobs
    assert results[other].tokens == greedy_tokens([1] * 9, 3)


def test_stops_of_the_model_and_of_the_request_end_with_their_token():
    tokens = greedy_tokens([2, 2], 9)
    end, stop = tokens[4], tokens[2]
    assert len(set(tokens[:5])) == 5
    model = HistoryModel(V, LENGTH, eos=(end,))
    for params, expected in [
        (GREEDY, (tokens[:5], "stop")),
        (SamplingParams(stop_token_ids=[stop]), (tokens[:3], "stop")),
        (SamplingParams(stop_token_ids=[stop], ignore_eos=True), (tokens[:3], "stop")),
        (SamplingParams(ignore_eos=True, max_tokens=9), (tokens, "length")),
        (SamplingParams(max_tokens=5), (tokens[:5], "stop")),
        (SamplingParams(max_tokens=4), (tokens[:4], "length")),
    ]:
        result = result_of([2, 2], params, model=model)
        assert (result.tokens, result.finish_reason) == expected


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_no_end_comes_before_min_tokens(temperature):
    ends = list(range(0, V, 2))
    params = SamplingParams(
        temperature=temperature, stop_token_ids=ends, min_tokens=6, max_tokens=12, seed=3
    )
    result = result_of([4], params)
    assert not set(ends) & set(result.tokens[:6])
    assert result.tokens == alone([4], params).tokens


@pytest.mark.parametrize("params", [GREEDY, SamplingParams(temperature=1.0, seed=3), SHORT])
def test_suppressed_tokens_are_never_chosen(params):
    """The argmax of a step tells whether logits are needed, and the step runs again."""
    free = alone([6, 6], params).tokens
    suppressed = tuple(sorted(set(free[1:3])))
    allowed_V = np.array([token not in suppressed for token in range(V)])
    for pads_steps in (False, True):
        model = HistoryModel(V, LENGTH, suppressed=suppressed, pads_steps=pads_steps)
        engine = engine_of(model=model)
        ids = [engine.submit(prompt, params) for prompt in ([6, 6], [7], [6] * 9)]
        results = engine.run()
        for id_, prompt in zip(ids, ([6, 6], [7], [6] * 9), strict=True):
            expected = alone(prompt, params, constraint=FixedMask(allowed_V))
            assert results[id_].tokens == expected.tokens
        assert not set(results[ids[0]].tokens) & set(suppressed)
    assert result_of([6, 6], params, model=HistoryModel(V, LENGTH)).tokens == free


def test_answers_share_the_prompt_and_differ():
    model = HistoryModel(V, LENGTH)
    params = SamplingParams(n=3, temperature=1.0, seed=5, max_tokens=8, logprobs=1)
    engine = engine_of(model=model)
    id_ = engine.submit([1, 2, 3, 4], params)
    engine.submit([1, 2], SamplingParams(max_tokens=2))
    result = engine.run()[id_]
    expected = [alone([1, 2, 3, 4], params, index=index) for index in range(3)]
    assert [each.tokens for each in result.answers] == [each.tokens for each in expected]
    assert [each.logprobs for each in result.answers] == [each.logprobs for each in expected]
    assert len({tuple(each.tokens) for each in result.answers}) == 3
    assert sum(int(np.sum(position_BT == 3)) for _, position_BT in model.steps) == 1


def test_first_index_addresses_an_answers_noise():
    params = SamplingParams(temperature=1.0, seed=5, max_tokens=8)
    engine = engine_of()
    ids = [engine.submit([1, 2], params, first_index=index) for index in range(3)]
    results = engine.run()
    three = result_of([1, 2], SamplingParams(n=3, temperature=1.0, seed=5, max_tokens=8))
    assert [results[id_].tokens for id_ in ids] == [each.tokens for each in three.answers]


def test_a_fresh_seed_is_another_one_and_repeats_the_answer():
    params = SamplingParams(temperature=1.0, max_tokens=20)
    one, two = result_of([1], params), result_of([1], params)
    assert one.seed != two.seed
    assert one.tokens != two.tokens
    again = SamplingParams(temperature=1.0, max_tokens=20, seed=one.seed)
    assert result_of([1], again).tokens == one.tokens


def test_events_of_a_request_are_its_result():
    engine = engine_of(2)
    params = SamplingParams(max_tokens=5, temperature=1.0, seed=1, logprobs=0)
    ids = [engine.submit([token], params) for token in range(3)]
    answer_of = together(step_until_idle(engine))
    assert answer_of == {(id_, 0): alone([id_], params) for id_ in ids}


SETS = [[1, 2, 3], [1, 2, 4, 4], [5], [7, 7]]


@pytest.mark.parametrize("temperature", [0.0, 3.0])
def test_a_constraint_decides_what_an_answer_is(temperature):
    params = SamplingParams(n=4, temperature=temperature, seed=2)
    result = result_of([9], params, constraint=TrieConstraint(SETS, V))
    assert all(each.tokens in SETS for each in result.answers)
    assert {each.finish_reason for each in result.answers} == {"stop"}
    if temperature:
        assert len({tuple(each.tokens) for each in result.answers}) > 1


def test_an_end_token_ends_a_constrained_answer():
    params = SamplingParams(stop_token_ids=[2])
    result = result_of([9], params, constraint=TrieConstraint([[1, 2, 3]], V))
    assert (result.tokens, result.finish_reason) == ([1, 2], "stop")


def test_the_submitted_constraint_is_not_used_up():
    constraint = TrieConstraint(SETS, V)
    engine = engine_of()
    ids = [engine.submit([9], constraint=constraint) for _ in range(2)]
    results = engine.run()
    assert constraint.tokens == []
    assert results[ids[0]].tokens == results[ids[1]].tokens


FAULTY = [
    (FailingConstraint("mask", 0), KeyError, 0),
    (FailingConstraint("mask", 2), KeyError, 2),
    (FailingConstraint("accept", 0), KeyError, 1),
    (FailingConstraint("accept", 2), KeyError, 3),
    (FixedMask(np.ones(V - 1, bool)), ValueError, 0),
    (FixedMask(np.ones(V, np.int32)), ValueError, 0),
    (FixedMask([True] * V), AttributeError, 0),
    (FixedMask(np.zeros(V, bool)), ValueError, 0),
]


@pytest.mark.parametrize(("constraint", "error", "count"), FAULTY)
def test_a_constraint_that_fails_ends_its_answer_alone(constraint, error, count):
    engine = engine_of()
    params = SamplingParams(max_tokens=6, n=2, logprobs=0)
    broken = engine.submit([9, 9], params, constraint=constraint)
    good = engine.submit([9, 9], params)
    results = engine.run()
    for each in results[broken].answers:
        assert (each.finish_reason, type(each.error)) == ("error", error)
        assert each.tokens == greedy_tokens([9, 9], count)
        assert len(each.logprobs) == count
    assert [each.tokens for each in results[good].answers] == [greedy_tokens([9, 9], 6)] * 2
    assert engine.submit([1], GREEDY) == 2


@pytest.mark.parametrize("params", [GREEDY, SamplingParams(temperature=1.0, logprobs=1, seed=1)])
def test_unusable_logits_end_their_answer_alone(params):
    engine = engine_of(model=HistoryModel(V, LENGTH, nan_after=11))
    broken, good = engine.submit([3, 11], params), engine.submit([1, 2], SHORT)
    result = (results := engine.run())[broken]
    assert (result.tokens, result.finish_reason) == ([], "error")
    assert "NaN" in str(result.answers[0].error)
    assert results[good].tokens == greedy_tokens([1, 2], 3)


def test_a_bias_that_forbids_every_token_is_an_error_of_its_request():
    result = result_of([1], SamplingParams(stop_token_ids=list(range(V)), min_tokens=1))
    assert (result.finish_reason, result.tokens) == ("error", [])
    assert "forbid" in str(result.answers[0].error)


REFUSED = [
    ("not empty", lambda engine: engine.submit([])),
    ("outside of the vocabulary 0..22", lambda engine: engine.submit([1, V])),
    ("outside of the vocabulary 0..22", lambda engine: engine.submit([-1])),
    ("must be integers", lambda engine: engine.submit([1.5])),
    (
        "the prompt has 41 tokens, the engine's max_length is 40",
        lambda engine: engine.submit([1] * (LENGTH + 1)),
    ),
    ("n is 5, allowed is 1..4", lambda engine: engine.submit([1], SamplingParams(n=5))),
    (
        "logit_bias has token id 23, which is outside of the vocabulary 0..22",
        lambda engine: engine.submit([1], SamplingParams(logit_bias={V: 1.0})),
    ),
    ("priority must be an integer, got 'high'", lambda engine: engine.submit([1], priority="high")),
    ("priority must be an integer", lambda engine: engine.submit([1], priority=None)),
    ("first_index must be at least 0", lambda engine: engine.submit([1], first_index=-1)),
    ("first_index must be an integer", lambda engine: engine.submit([1], first_index=1.5)),
    (
        "stop_token_ids has token id 23",
        lambda engine: engine.submit([1], SamplingParams(stop_token_ids=[2, V])),
    ),
]


@pytest.mark.parametrize(("words", "call"), REFUSED)
def test_what_can_never_fit_is_refused_and_nothing_changes(words, call):
    engine = engine_of()
    with pytest.raises(ValueError, match=words):
        call(engine)
    assert not engine.has_work
    assert engine.submit([1], SHORT) == 0


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("max_sequences must be at least 1", {"max_sequences": 0}),
        ("prefill_chunk must be at least 1", {"prefill_chunk": 0}),
        ("max_length", {"max_length": 0}),
        ("max_waiting must be at least 0", {"max_waiting": -1}),
        ("prefill_chunk must be an integer", {"prefill_chunk": 1.5}),
        ("max_sequences must be an integer", {"max_sequences": True}),
        ("suppress_tokens is .*, allowed is token ids of 0 to 22", {"suppress_tokens": [1, V]}),
        ("suppress_tokens is .*, allowed is token ids of 0 to 22", {"suppress_tokens": [-1]}),
    ],
)
def test_sizes_that_mean_nothing_are_refused(words, options):
    with pytest.raises(ValueError, match=words):
        Engine(HistoryModel(V, LENGTH), **options)
