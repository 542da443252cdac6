"""Responses: what a chat answers, as items; the events of a stream are the whole."""

from dataclasses import replace

import hypothesis
import pytest
from hypothesis import strategies as st
from openai.types.responses import Response

from mimo_v2_flash.engine.outputs import TokenLogprob
from mimo_v2_flash.serving.chat_completion import ChatCompletionBuilder
from mimo_v2_flash.serving.errors import APIError
from mimo_v2_flash.serving.protocol import ChatCompletionFields, ResponseFields, parse_request
from mimo_v2_flash.serving.responses import ResponsesBuilder
from tests.serving.test_chat_completion import CALL, SIZES, TEXTS, push
from tests.serving.test_response_items import check_event
from tests.support.served import RESPONSES_WEATHER, WEATHER, events_of, served_tiny


def response(served, **fields):
    body = {"input": "Rain?", "tools": [RESPONSES_WEATHER], **fields}
    request = parse_request(ResponseFields, body)
    request.check()
    return ResponsesBuilder(request, served)


@hypothesis.given(st.sampled_from(TEXTS), SIZES, st.sampled_from([2, None]))
def test_a_stream_is_the_whole(served, text, sizes, end):
    one = response(served, stream=True)
    if not text and end is None:
        end = 2  # an answer has a token
    events = push(one, events_of(served.tokenizer, text, sizes, end))
    whole = one.result()
    Response.model_validate(whole)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["response"] == whole
    assert events[-1]["type"] == f"response.{whole['status']}"
    for event in events:
        check_event(event)
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == whole["output"]


@hypothesis.given(st.sampled_from(TEXTS[1:]), SIZES)
def test_texts_have_the_log_probabilities_of_their_tokens(served, text, sizes):
    one = response(served, include=["message.output_text.logprobs"], top_logprobs=1)
    assert one.submissions[0].params.logprobs == 1
    steps = [
        [(0, replace(event, logprobs=tuple(map(logprob_of, event.tokens)))) for _, event in step]
        for step in events_of(served.tokenizer, text, sizes)
    ]
    events, whole = push(one, steps), one.result()
    assert whole["top_logprobs"] == 1
    for event in events:
        check_event(event)
    (part,) = [item["content"][0] for item in whole["output"] if item["type"] == "message"] or [{}]
    entries = part.get("logprobs", [])
    content = bytes(byte for entry in entries for byte in entry["bytes"])
    assert content.decode() == part.get("text", "")
    assert {len(entry["top_logprobs"]) for entry in entries} <= {1}
    kinds = "response.output_text.delta", "response.output_text.done"
    for kind in kinds:
        streamed = [e for event in events if event["type"] == kind for e in event["logprobs"]]
        assert [entry["token"] for entry in streamed] == [entry["token"] for entry in entries]
        assert all(entry["top_logprobs"][0]["logprob"] == -2.0 for entry in streamed)


def logprob_of(token):
    return TokenLogprob(token, -1.0, 1, ((9, -2.0),))


@hypothesis.given(st.sampled_from(TEXTS), SIZES, st.sampled_from([2, None]))
def test_it_is_what_the_chat_answers(served, text, sizes, end):
    if not text and end is None:
        end = 2
    one, steps = response(served), events_of(served.tokenizer, text, sizes, end)
    body = {"messages": [{"role": "user", "content": "Rain?"}], "tools": [WEATHER]}
    chat = ChatCompletionBuilder(parse_request(ChatCompletionFields, body), served)
    assert one.submissions == chat.submissions
    push(one, steps)
    push(chat, steps)
    whole, (choice,) = one.result(), chat.result()["choices"]
    items = whole["output"]
    message = choice["message"]
    assert Response.model_validate(whole).output_text == (message["content"] or "")
    thoughts = [item["content"][0]["text"] for item in items if item["type"] == "reasoning"]
    assert "".join(thoughts) == message.get("reasoning_content", "")
    calls = [call["function"] for call in message.get("tool_calls", ())]
    assert calls == [
        {"name": item["name"], "arguments": item["arguments"]}
        for item in items
        if item["type"] == "function_call"
    ]
    usage, expected = whole["usage"], chat.usage()
    assert usage["input_tokens"] == expected["prompt_tokens"]
    assert usage["output_tokens"] == expected["completion_tokens"]
    assert usage["output_tokens_details"] == expected["completion_tokens_details"]
    assert whole["status"] == ("completed" if end else "incomplete")
    assert (whole["incomplete_details"] is None) == bool(end)


def test_what_it_answered_goes_back_as_the_same_turn(served):
    one = response(served)
    push(one, events_of(served.tokenizer, "<think>They ask for Rome.</think>Let me see." + CALL))
    items = one.result()["output"]
    output = {"type": "function_call_output", "output": "Yes.", "call_id": items[-1]["call_id"]}
    again = response(served, input=[{"role": "user", "content": "Rain?"}, *items, output])
    _, turn, result = again.request.messages
    (call,) = turn.pop("tool_calls")
    assert turn == {
        "role": "assistant",
        "reasoning_content": "They ask for Rome.",
        "content": "Let me see.",
    }
    assert call["function"] == {"name": "get_weather", "arguments": {"city": "Rome", "days": 3}}
    assert result == {"role": "tool", "tool_call_id": call["id"], "content": "Yes."}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"store": True}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    ],
)
def test_what_needs_a_memory_is_refused(served, fields, param):
    with pytest.raises(APIError, match="not supported") as caught:
        response(served, **fields)
    assert (caught.value.param, caught.value.status) == (param, 400)


def test_what_asks_for_nothing_is_taken(served):
    others = {"include": ["reasoning.encrypted_content"], "top_logprobs": 2, "user": "me"}
    one = response(served, store=False, **others)
    assert one.result()["store"] is False
    assert one.submissions[0].params.logprobs is None


def test_the_request_says_whether_turns_go():
    served = served_tiny(max_length=256)
    turns = [{"role": "user", "content": "word " * 60} for _ in range(6)]
    assert response(served, input=turns).notes
    assert response(served, input=turns, truncation="auto").result()["truncation"] == "auto"
    with pytest.raises(APIError, match="maximum context length is 256"):
        response(served, input=turns, truncation="disabled")
    request = parse_request(ResponseFields, {"input": turns})
    with pytest.raises(APIError, match="maximum context length is 256"):
        ResponsesBuilder(request, served, drops_turns=False)


def test_a_failure_is_an_event(served):
    one = response(served, stream=True)
    created, _ = one.begin()
    (event,) = one.failure(APIError("the engine failed", status=500))
    check_event(event)
    assert event["response"]["error"]["message"] == "the engine failed"
    assert event["response"]["id"] == created["response"]["id"]
    assert (event["type"], event["sequence_number"]) == ("response.failed", 2)
