"""Chat completions: what a model writes, in the shapes that clients read, however it is cut."""

import json

import hypothesis
import pytest
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion as OpenAIChatCompletion
from openai.types.chat import ChatCompletionChunk

from mimo_v2_flash.engine.outputs import Event, TokenLogprob
from mimo_v2_flash.serving.chat_completion import ChatCompletionBuilder
from mimo_v2_flash.serving.errors import APIError
from mimo_v2_flash.serving.protocol import ChatCompletionFields, parse_request
from mimo_v2_flash.text.tokenizer import tokens
from tests.support.served import WEATHER, completion_of, events_of, served_tiny

CALL = (
    "<tool_call>\n<function=get_weather>\n<parameter=city>Rome</parameter>\n"
    "<parameter=days>3</parameter>\n</function>\n</tool_call>"
)
THOUGHT = "<think>They ask for Rome.</think>"
TEXTS = ["", "It rains.", THOUGHT + "It rains.", THOUGHT + "Let me see." + CALL, CALL + CALL]
SIZES = st.lists(st.integers(1, 5), max_size=12)


def answer(served, **fields):
    body = {"messages": [{"role": "user", "content": "Rain?"}], "tools": [WEATHER], **fields}
    request = parse_request(ChatCompletionFields, body)
    request.check()
    return ChatCompletionBuilder(request, served)


def push(one, steps):
    """Return the chunks of an answer."""
    return [*one.begin(), *(chunk for events in steps for chunk in one.push(events)), *one.end()]


def joined(chunks):
    """Return the message that a client puts together from chunks."""
    message = {"content": "", "reasoning_content": "", "reasoning": "", "tool_calls": []}
    for chunk in chunks:
        delta = chunk["choices"][0]["delta"]
        for name in ("content", "reasoning_content", "reasoning"):
            message[name] += delta.get(name) or ""
        for call in delta.get("tool_calls", ()):
            calls = message["tool_calls"]
            if call["index"] == len(calls):
                calls.append({"name": call["function"]["name"], "arguments": ""})
            calls[call["index"]]["arguments"] += call["function"]["arguments"]
    return message


@hypothesis.given(st.sampled_from(TEXTS), SIZES)
def test_a_stream_is_the_whole(served, text, sizes):
    one = answer(served, stream=True)
    chunks = push(one, events_of(served.tokenizer, text, sizes))
    (choice,) = one.result()["choices"]
    message, whole = joined(chunks), choice["message"]
    assert message["content"] == (whole["content"] or "")
    assert message["reasoning"] == message["reasoning_content"] == whole.get("reasoning", "")
    calls = [call["function"] for call in whole.get("tool_calls", ())]
    assert message["tool_calls"] == calls
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-1] == choice["finish_reason"]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    OpenAIChatCompletion.model_validate(one.result())
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)


@pytest.mark.parametrize(
    ("text", "reasoning", "content", "calls", "reason"),
    [
        ("It rains.", None, "It rains.", 0, "stop"),
        (THOUGHT + "It rains.", "They ask for Rome.", "It rains.", 0, "stop"),
        (THOUGHT + CALL, "They ask for Rome.", None, 1, "tool_calls"),
        (CALL + CALL, None, None, 2, "tool_calls"),
        ("", None, "", 0, "stop"),
        ("It rains <function=get", None, "It rains <function=get", 0, "stop"),
    ],
)
def test_an_answer_has_thinking_text_and_calls(served, text, reasoning, content, calls, reason):
    one = answer(served)
    push(one, events_of(served.tokenizer, text))
    (choice,) = one.result()["choices"]
    message = choice["message"]
    assert (message["content"], message.get("reasoning_content")) == (content, reasoning)
    assert choice["finish_reason"] == reason
    tool_calls = message.get("tool_calls", [])
    assert len({call["id"] for call in tool_calls}) == calls
    for call in tool_calls:
        assert json.loads(call["function"]["arguments"]) == {"city": "Rome", "days": 3}


def test_a_call_that_was_cut_is_no_tool_call(served):
    one = answer(served)
    push(one, events_of(served.tokenizer, CALL[:-30], end=None))
    assert one.result()["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("fields", "text", "check"),
    [
        ({"tool_choice": "none"}, CALL, lambda m: "get_weather" in m["content"]),
        ({"parallel_tool_calls": False}, CALL + CALL, lambda m: len(m["tool_calls"]) == 1),
        ({"include_reasoning": False}, THOUGHT + "Yes.", lambda m: "reasoning" not in m),
        ({"stop": "rains"}, "It rains.", lambda m: m["content"] == "It "),
        ({"stop": "rains", "min_tokens": 9}, "It rains.", lambda m: m["content"] == "It rains."),
        (
            {"stop": "rains", "include_stop_str_in_output": True},
            "It rains.",
            lambda m: m["content"] == "It rains",
        ),
    ],
)
def test_fields_say_what_is_shown(served, fields, text, check):
    one = answer(served, **fields)
    push(one, events_of(served.tokenizer, text))
    assert check(one.result()["choices"][0]["message"])


@pytest.mark.parametrize("min_tokens", [0, 3])
def test_a_stop_string_ends_no_answer_before_its_least_tokens(served, min_tokens):
    fields = {"stop": "a", "min_tokens": min_tokens}
    chat, completion = answer(served, **fields), completion_of(served, **fields)
    for one in (chat, completion):
        (submission,) = one.submissions
        verdicts = [
            submission.constraint.accept(token) for token in tokens(served.tokenizer, "a") * 5
        ]
        assert verdicts.index("stop") == min_tokens
    steps = [
        [(0, Event(0, 0, (token,), None, None))] for token in tokens(served.tokenizer, "a") * 5
    ]
    texts = [chunk["choices"][0]["text"] for events in steps for chunk in completion.push(events)]
    assert "".join(texts) == "a" * min_tokens


def test_a_named_tool_ends_with_stop(served):
    choice = {"type": "function", "function": {"name": "get_weather"}}
    one = answer(served, tool_choice=choice)
    assert one.submissions[0].constraint is not None
    push(one, events_of(served.tokenizer, CALL))
    assert one.result()["choices"][0]["finish_reason"] == "stop"


def test_thinking_is_counted(served):
    one = answer(served)
    push(one, events_of(served.tokenizer, THOUGHT + "It rains."))
    usage, thought = one.usage(), len(tokens(served.tokenizer, THOUGHT))
    total = len(tokens(served.tokenizer, THOUGHT + "It rains.")) + 1  # the end token
    assert usage["completion_tokens"] == total
    assert abs(usage["completion_tokens_details"]["reasoning_tokens"] - thought) <= 2


@hypothesis.given(st.sampled_from(TEXTS), SIZES)
def test_every_token_has_its_log_probability_once(served, text, sizes):
    one = answer(served, logprobs=True, top_logprobs=1, stream=True)
    steps = [
        [
            (
                number,
                Event(
                    *(event.id, event.index, event.tokens),
                    tuple(TokenLogprob(token, -1.0, 1, ((token, -1.0),)) for token in event.tokens),
                    event.finish_reason,
                ),
            )
            for number, event in events
        ]
        for events in events_of(served.tokenizer, text, sizes)
    ]
    chunks = push(one, steps)
    streamed = [
        entry
        for chunk in chunks
        for entry in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]
    ]
    (choice,) = one.result()["choices"]
    assert streamed == choice["logprobs"]["content"]
    assert len(streamed) == one.usage()["completion_tokens"]


def test_a_form_holds_after_thinking_alone(served):
    fields = {"response_format": {"type": "json_object"}}
    for thinks in (False, True):
        kwargs = {"chat_template_kwargs": {"enable_thinking": thinks}}
        mask = answer(served, **fields, **kwargs).submissions[0].constraint.mask()
        assert (mask is None) == thinks


LONG = [
    {"role": "system", "content": "Be brief."},
    *(
        {"role": role, "content": f"word {index} " * 40}
        for index in range(4)
        for role in ("user", "assistant")
    ),
    {"role": "user", "content": "the last question"},
]


def test_the_oldest_turns_go_where_a_chat_is_too_long():
    served = served_tiny(max_length=512)
    one = answer(served, messages=LONG)
    prompt = served.tokenizer.decode(one.submissions[0].prompt_tokens)
    assert "Be brief." in prompt
    assert "the last question" in prompt
    assert "word 0" not in prompt
    assert one.notes == {"dropped_turns": 1 + ("word 1" not in prompt) + ("word 2" not in prompt)}
    request = parse_request(ChatCompletionFields, {"messages": LONG})
    with pytest.raises(APIError, match="maximum context length is 512"):
        ChatCompletionBuilder(request, served, drops_turns=False)
    with pytest.raises(APIError, match="maximum context length is 512"):
        answer(served, messages=[{"role": "user", "content": "word " * 800}])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{"role": "king", "content": "x"}]}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages"),
        ({"tools": [{"type": "retrieval"}]}, "tools"),
        ({"chat_template_kwargs": {"chat_template": "{{ x }}"}}, "chat_template_kwargs"),
    ],
)
def test_what_a_template_cannot_take_is_refused(served, fields, param):
    with pytest.raises(APIError) as caught:
        answer(served, **fields)
    assert caught.value.param.startswith(param)
    assert caught.value.status == 400
