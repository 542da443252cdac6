"""Requests: fields are checked by name, null is absent, and parameters are what was asked for."""

import json

import hypothesis
import pytest
from hypothesis import strategies as st

from mimo_v2_flash.serving.errors import APIError
from mimo_v2_flash.serving.protocol import (
    ChatCompletionFields,
    CompletionFields,
    parse_request,
)

CHAT = {"messages": [{"role": "user", "content": "Hello"}]}


def parse(kind=ChatCompletionFields, **fields):
    body = {**(CHAT if kind is ChatCompletionFields else {"prompt": "A"}), **fields}
    request = parse_request(kind, json.dumps(body))
    request.check()
    return request


def test_unknown_fields_and_null_are_as_if_absent():
    request = parse(user="me", store=True, temperature=None, stop=None, tools=None)
    assert request == parse()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": ["hello"]}, "messages"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"n": 1.5}, "n"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        (
            {"continue_final_message": True, "add_generation_prompt": True},
            "continue_final_message",
        ),
    ],
)
def test_a_field_that_is_not_allowed_is_named(fields, param):
    with pytest.raises(APIError) as caught:
        parse(**fields)
    assert caught.value.param == param
    assert caught.value.status == 400
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"min_tokens": -1}, "min_tokens"),
    ],
)
def test_a_sampling_parameter_that_is_not_allowed_is_named(fields, param):
    with pytest.raises(APIError) as caught:
        parse(**fields).sampling({})
    assert caught.value.param == param


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"messages": 1, "messages": 2}', b"\xff", b"[" * 100_000]
)
def test_a_body_that_is_no_json_object_is_refused(body):
    with pytest.raises(APIError, match="the body is"):
        parse_request(ChatCompletionFields, body)


def test_parameters_are_the_requests_and_else_the_models():
    params = parse(temperature=0.5, logit_bias={"7": 500.0}, seed=3).sampling(
        {"temperature": 0.6, "top_p": 0.9}, max_tokens=5
    )
    assert (params.temperature, params.top_p, params.max_tokens) == (0.5, 0.9, 5)
    assert (params.logit_bias, params.seed) == ({7: 100}, 3)


@pytest.mark.parametrize(("seed", "expected"), [(None, None), (-1, None), (5, 5), (-2, 2**64 - 2)])
def test_a_seed_of_minus_one_is_none(seed, expected):
    assert parse(seed=seed).sampling({}).seed == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "none"}, True),
        ({"thinking": {"type": "enabled"}}, True),
        ({"thinking": {"type": "disabled"}}, False),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "low"}, True),
    ],
)
def test_thinking_is_asked_for_by_several_names(fields, expected):
    assert parse(**fields).enable_thinking is expected


@pytest.mark.parametrize("fields", [{"suffix": "x"}, {"best_of": 2}, {"best_of": 1, "n": 2}])
def test_what_completions_do_not_have_is_refused(fields):
    with pytest.raises(APIError):
        parse(CompletionFields, **fields)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@hypothesis.given(
    st.sampled_from([ChatCompletionFields, CompletionFields]),
    st.data(),
)
def test_any_fields_make_parameters_or_one_line(kind, data):
    names = st.sampled_from(sorted(kind.model_fields))
    fields = data.draw(st.dictionaries(names, JSON, max_size=4))
    body = {**(CHAT if kind is ChatCompletionFields else {"prompt": "A"}), **fields}
    message = ""
    try:
        request = parse_request(kind, json.dumps(body))
        request.check()
        request.sampling({"top_k": 50})
    except APIError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1
    assert len(message) < 1000
