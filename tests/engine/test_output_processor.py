"""output_processor: tokens, log-probabilities and ends of the sequences of one step."""

import numpy as np
import pytest

from mimo_v2_flash.engine.logprobs import token_logprobs
from mimo_v2_flash.engine.output_processor import OutputProcessor
from mimo_v2_flash.engine.request import Request, Sequence
from mimo_v2_flash.engine.sampling_params import SamplingParams
from mimo_v2_flash.engine.step_runner import StepResult
from tests.support.engine_constraints import FailingConstraint

V = 6
LOGITS = np.array([[0, 3, 1, 0, 2, 0], [5, 0, 4, 0, 0, 0]], np.float32)


def sequence_of(*, ends=(), limit=9, constraint=None, new=(), **params) -> Sequence:
    request = Request(0, [1, 2], SamplingParams(**params), frozenset(ends), limit, seed=0)
    request.sequences = [Sequence(request, 0, constraint, new_tokens=list(new))]
    return request.sequences[0]


def events_of(*sequences, logits_RV=None):
    logits_RV = LOGITS[: len(sequences)] if logits_RV is None else logits_RV
    return OutputProcessor()(StepResult(list(sequences), [], logits_RnV=logits_RV[:, None]))


def test_greedy_tokens_need_no_logits():
    one, two = sequence_of(), sequence_of(ends=[4])
    events = OutputProcessor()(StepResult([one, two], [], np.array([[3], [4]], np.int32)))
    assert [(event.tokens, event.finish_reason) for event in events] == [
        ((3,), None),
        ((4,), "stop"),
    ]
    assert [type(token) for token in one.new_tokens] == [int]


def test_logprobs_are_of_the_model_whatever_is_chosen():
    params = {"logprobs": 2, "temperature": 0.5, "logit_bias": {3: 99.0}, "repetition_penalty": 2.0}
    sequence, plain = sequence_of(**params), sequence_of()
    first, second = events_of(sequence, plain)
    assert first.tokens == (3,)
    assert (
        list(first.logprobs) == token_logprobs(LOGITS[:1], np.array([3]), [2]) == sequence.logprobs
    )
    assert (second.tokens, second.logprobs, plain.logprobs) == ((0,), None, [])


@pytest.mark.parametrize(("new", "expected"), [([], 4), ([0], 4), ([0, 0], 1)])
def test_ends_are_forbidden_before_min_tokens(new, expected):
    (event,) = events_of(sequence_of(ends=[1], min_tokens=2, new=new))
    assert event.tokens == (expected,)
    assert event.finish_reason == ("stop" if expected == 1 else None)


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"limit": 1}, "length"), ({"limit": 2}, None), ({"limit": 1, "ends": [1]}, "stop")],
)
def test_an_end_token_comes_before_the_limit(options, reason):
    (event,) = events_of(sequence_of(**options))
    assert (event.tokens, event.finish_reason) == ((1,), reason)


def test_without_a_limit_of_tokens_there_is_none():
    bad = np.full((1, V), np.nan, np.float32)
    for logits_RV in (LOGITS[:1], bad):
        (event,) = events_of(sequence_of(limit=0), logits_RV=logits_RV)
        assert (event.tokens, event.finish_reason) == ((), "length")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_without_any_token_end_their_sequence_alone(temperature):
    logits_RV = LOGITS.copy()
    logits_RV[0] = -np.inf
    broken, good = sequence_of(temperature=temperature), sequence_of(logprobs=0)
    events = events_of(broken, good, logits_RV=logits_RV)
    assert {event.finish_reason for event in events} == {"error", None}
    assert (broken.finish_reason, broken.new_tokens, good.new_tokens) == ("error", [], [0])


def test_errors_of_constraints_stay_with_their_sequences():
    failing = [sequence_of(constraint=FailingConstraint(kind, 0)) for kind in ("mask", "accept")]
    good = sequence_of(logprobs=1)
    logits_RV = np.stack([LOGITS[0], LOGITS[0], LOGITS[1]])
    events = events_of(*failing, good, logits_RV=logits_RV)
    assert [sequence.finish_reason for sequence in (*failing, good)] == ["error", "error", None]
    assert [sequence.new_tokens for sequence in (*failing, good)] == [[], [1], [0]]
    assert list(events[-1].logprobs) == token_logprobs(LOGITS[1:], np.array([0]), [1])


def test_a_step_of_which_no_sequence_is_ready_has_no_events():
    empty_RV = np.zeros((0, V), np.float32)
    assert OutputProcessor()(StepResult([], [], logits_RnV=empty_RV[:, None])) == []
