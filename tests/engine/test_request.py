"""request: what is left to compute of a sequence, and what its end leaves."""

import pytest

from mimo_v2_flash.engine.outputs import Event, TokenLogprob
from mimo_v2_flash.engine.request import Request, Sequence
from mimo_v2_flash.engine.sampling_params import SamplingParams
from tests.support.engine_constraints import FailingConstraint


def sequence_of(*, prompt=(5, 6, 7), new=(), constraint=None, n=1, **params) -> Sequence:
    request = Request(3, list(prompt), SamplingParams(**params), frozenset(), 9, seed=11)
    request.sequences = [
        Sequence(request, index, constraint, new_tokens=list(new)) for index in range(n)
    ]
    return request.sequences[0]


@pytest.mark.parametrize(
    ("computed", "limit", "expected"),
    [(0, 2, [5, 6]), (1, 9, [6, 7]), (3, 1, [8]), (3, 9, [8, 9]), (4, 1, [9]), (5, 4, [])],
)
def test_unseen_tokens_are_of_the_prompt_then_of_the_answer(computed, limit, expected):
    sequence = sequence_of(new=[8, 9])
    sequence.computed = computed
    assert sequence.unseen(limit) == expected
    assert sequence.is_prefill == (computed < 3)
    assert sequence.length == 5


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, True),
        ({"top_k": 3}, True),
        ({"min_tokens": 1}, False),
        ({"min_tokens": 1, "new": [4]}, True),
        ({"logprobs": 0}, False),
        ({"temperature": 1.0}, False),
        ({"presence_penalty": 1.0}, False),
        ({"logit_bias": {1: 1.0}}, False),
        ({"constraint": FailingConstraint("mask", 0)}, False),
    ],
)
def test_an_argmax_is_enough_where_nothing_changes_or_reads_logits(options, expected):
    assert sequence_of(**options).is_argmax is expected


def test_prompt_logprobs_are_wanted_while_the_prompt_is_computed():
    sequence = sequence_of(prompt_logprobs=0)
    assert sequence.wants_prompt_logprobs
    sequence.computed = 3
    assert not sequence.wants_prompt_logprobs
    assert not sequence_of().wants_prompt_logprobs


def test_an_event_is_what_a_step_added():
    sequence, error = sequence_of(), ValueError("x")
    assert sequence.end(None, tokens=(4,)) == Event(3, 0, (4,))
    assert sequence.finish_reason is None
    assert sequence.end("error", error) == Event(3, 0, (), None, "error", error)
    assert (sequence.finish_reason, sequence.error) == ("error", error)


def test_a_request_is_finished_when_all_of_its_answers_are():
    first = sequence_of(n=2, logprobs=0)
    request = first.request
    first.new_tokens.append(4)
    first.logprobs.append(TokenLogprob(4, -1.0, 1, ()))
    first.end("stop")
    assert not request.is_finished
    request.sequences[1].end("length")
    assert request.is_finished
    output = request.output()
    assert (output.tokens, output.finish_reason, output.seed) == ([4], "stop", 11)
    assert output.logprobs == [TokenLogprob(4, -1.0, 1, ())]
    assert output.prompt_logprobs is None
    assert (output.answers[1].tokens, output.answers[1].logprobs) == ([], [])
