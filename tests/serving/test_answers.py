"""What all answers share: usage, the token that ended them, and errors."""

import pytest

from mimo_v2_flash.engine.outputs import Event
from mimo_v2_flash.serving.errors import APIError
from tests.support.served import completion_of


def test_a_prompt_counts_once_and_end_tokens_count(served):
    one = completion_of(served, prompt=["A list", "The type"], n=2)
    for number in (0, 1):
        for index in (0, 1):
            one.push([(number, Event(number, index, (50, 2), None, "stop", cached_tokens=1))])
    assert [len(choice.tokens) for choice in one.choices] == [2] * 4
    prompt = sum(len(submission.prompt_tokens) for submission in one.submissions)
    assert one.usage() == {
        "prompt_tokens": prompt,
        "completion_tokens": 8,
        "total_tokens": prompt + 8,
        "prompt_tokens_details": {"cached_tokens": 1},
    }


@pytest.mark.parametrize(
    ("fields", "token", "text", "reason"),
    [
        ({}, 2, "get", None),
        ({"stop_token_ids": [50]}, 50, "get", 50),
        ({"ignore_eos": True, "stop_token_ids": [50]}, 50, "get", 50),
    ],
)
def test_the_token_that_ended_an_answer_is_not_shown(served, fields, token, text, reason):
    one = completion_of(served, **fields)
    one.push([(0, Event(0, 0, (685, token), None, "stop"))])
    (choice,) = one.result()["choices"]
    assert (choice["text"], choice["stop_reason"]) == (text, reason)


def test_a_token_that_ends_nothing_is_shown(served):
    one = completion_of(served)
    one.push([(0, Event(0, 0, (685, 685), None, "length"))])
    assert one.result()["choices"][0]["text"] == "getget"


@pytest.mark.parametrize(
    ("event", "status", "words"),
    [
        (Event(0, 0, finish_reason="cancelled"), 503, "shuts down"),
        (Event(0, 0, finish_reason="error", error=ValueError("NaN in row 0")), 500, "NaN in row 0"),
        (Event(0, 0, finish_reason="error", error=KeyError("secret")), 500, "engine failed"),
    ],
)
def test_an_answer_that_cannot_be_is_an_error(served, event, status, words):
    with pytest.raises(APIError, match=words) as caught:
        completion_of(served).push([(0, event)])
    assert caught.value.status == status
    assert "secret" not in str(caught.value)


def test_a_stream_may_have_usage_in_each_chunk_or_at_its_end(served):
    options = {"include_usage": True, "continuous_usage_stats": True}
    one = completion_of(served, stream=True, stream_options=options)
    (chunk,) = one.push([(0, Event(0, 0, (685,), None, "length"))])
    (last,) = one.end()
    assert chunk["usage"]["completion_tokens"] == last["usage"]["completion_tokens"] == 1
    assert last["choices"] == []
    assert completion_of(served, stream=True).end() == []
