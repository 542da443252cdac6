"""Completions: the text of the tokens, whole and as a stream, with stop strings and echoes."""

import hypothesis
import pytest
from hypothesis import strategies as st
from openai.types import Completion as OpenAICompletion

from mimo_v2_flash.engine.outputs import Event, TokenLogprob
from mimo_v2_flash.serving.errors import APIError
from tests.support.served import completion_of, events_of


def push(one, steps):
    """Return the chunks of an answer's events."""
    return [chunk for events in steps for chunk in one.push(events)]


@hypothesis.given(st.text(max_size=30), st.lists(st.integers(1, 4), max_size=5))
def test_a_stream_is_the_whole(served, text, sizes):
    hypothesis.assume(not any(0xD800 <= ord(character) < 0xE000 for character in text))
    hypothesis.assume(not any(name in text for name in served.tokenizer.added_tokens_encoder))
    one = completion_of(served)
    chunks = push(one, events_of(served.tokenizer, text, sizes))
    whole = one.result()["choices"][0]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["text"] == text
    assert chunks[-1]["choices"][0]["finish_reason"] == whole["finish_reason"] == "stop"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * (
        len(chunks) - 1
    )
    OpenAICompletion.model_validate(one.result())


@hypothesis.given(st.lists(st.integers(1, 3), max_size=8), st.booleans())
def test_a_stop_string_is_not_shown_unless_it_is_wanted(served, sizes, is_wanted):
    one = completion_of(served, stop=["of names", "never"], include_stop_str_in_output=is_wanted)
    chunks = push(one, events_of(served.tokenizer, "a list of names", sizes, end=None))
    expected = "a list of names" if is_wanted else "a list "
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == expected
    assert one.result()["choices"][0]["stop_reason"] == "of names"


def test_the_engine_is_told_of_stop_strings_and_limits(served):
    (submission,) = completion_of(served, stop="x", n=3, max_tokens=7).submissions
    assert (submission.params.n, submission.params.max_tokens) == (3, 7)
    assert submission.constraint is not None
    (submission,) = completion_of(served).submissions
    assert (submission.params.max_tokens, submission.constraint) == (16, None)
    assert submission.params.temperature == 0.6  # the checkpoint's


def test_an_echo_has_the_prompt_and_its_log_probabilities(served):
    one = completion_of(served, echo=True, logprobs=1, n=2, max_tokens=1)
    (submission,) = one.submissions
    assert submission.params.prompt_logprobs == submission.params.logprobs == 1
    entry = TokenLogprob(685, -1.0, 1, ((685, -1.0),))
    prompt = (entry,) * (len(submission.prompt_tokens) - 1)
    assert one.push([(0, Event(0, 0, prompt_logprobs=prompt))]) == []
    for index in (0, 1):
        (chunk,) = one.push([(0, Event(0, index, (685,), (entry,), "length"))])
        (choice,) = chunk["choices"]
        assert choice["text"] == "A listget"
        assert choice["logprobs"]["token_logprobs"] == [None, *[-1.0] * len(prompt), -1.0]
    assert all(choice["text"] == "A listget" for choice in one.result()["choices"])


def test_a_prompt_alone_has_log_probabilities(served):
    one = completion_of(served, echo=True, logprobs=0, max_tokens=0)
    one.push([(0, Event(0, 0, prompt_logprobs=(TokenLogprob(685, -1.0, 1, ()),)))])
    one.push([(0, Event(0, 0, (), None, "length"))])
    (choice,) = one.result()["choices"]
    assert choice["logprobs"]["token_logprobs"] == [None, -1.0]


@pytest.mark.parametrize(
    ("prompt", "count"),
    [("A", 1), (["A", "B"], 2), ([5, 6], 1), ([[5, 6], [7]], 2)],
)
def test_prompts_are_texts_or_token_ids_one_or_several(served, prompt, count):
    assert len(completion_of(served, prompt=prompt).submissions) == count


@pytest.mark.parametrize("prompt", [[], [[]], [-1], [4096], ["A"] * 257, "\ud800", [1] * 2000])
def test_a_prompt_that_is_none_is_refused(served, prompt):
    with pytest.raises(APIError):
        completion_of(served, prompt=prompt)
