"""The HTTP API on a real socket, by the official client, by raw requests, by those who go away."""

import json
import socket
import time
from typing import Literal

import httpx
import hypothesis
import pytest
from hypothesis import strategies as st
from openai import APIError, BadRequestError, NotFoundError, OpenAI
from pydantic import BaseModel

from mimo_v2_flash.engine import SamplingParams
from mimo_v2_flash.serving.protocol import (
    ChatCompletionFields,
    CompletionFields,
    DetokenizeRequest,
    ResponseFields,
    TokenizeRequest,
)
from tests.support.engine_model import HistoryModel
from tests.support.engine_tiny import run_alone
from tests.support.served import NAME, RESPONSES_WEATHER, WEATHER, serving

HELLO = [{"role": "user", "content": "What is a list?"}]


@pytest.fixture(scope="module")
def server():
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def http():
    """Return a client that connects once: a new one makes an SSL context."""
    with httpx.Client() as http:
        yield http


@pytest.fixture(scope="module")
def client(server):
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def chat(client, **fields):
    fields = {"messages": HELLO, "model": NAME, "max_tokens": 8, "temperature": 0, **fields}
    return client.chat.completions.create(**fields)


def test_a_chat_is_what_the_engine_answers(server, client):
    answer = chat(client)
    served = server.service.served
    prompt = httpx.post(f"{server.url}/tokenize", json={"messages": HELLO}).json()["tokens"]
    (alone,) = run_alone(served.model, prompt, SamplingParams(max_tokens=8))
    assert answer.choices[0].message.content == served.tokenizer.decode(alone.tokens)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.prompt_tokens == len(prompt)
    assert answer.usage.completion_tokens == 8


def test_a_stream_is_the_same(client):
    whole = chat(client).choices[0].message.content
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole
    assert chunks[-1].usage.completion_tokens == 8
    assert not chunks[-1].choices
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_seed_repeats_an_answer(client):
    first, second = (
        chat(client, temperature=1.0, seed=5, n=2, max_tokens=12).choices for _ in range(2)
    )
    assert [each.message.content for each in first] == [each.message.content for each in second]
    assert first[0].message.content != first[1].message.content


def test_a_required_tool_is_called(client):
    answer = chat(
        client, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, max_tokens=60
    )
    (choice,) = answer.choices
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather"
    assert choice.finish_reason in {"tool_calls", "length"}


def test_a_schema_is_kept_to(client):
    schema = {
        "type": "object",
        "properties": {"status": {"enum": ["ok"]}},
        "required": ["status"],
        "additionalProperties": False,
    }
    response_format = {"type": "json_schema", "json_schema": {"name": "status", "schema": schema}}
    answer = chat(client, response_format=response_format, max_tokens=100, temperature=1, seed=1)
    assert json.loads(answer.choices[0].message.content) == {"status": "ok"}
    assert answer.choices[0].finish_reason == "stop"


def test_completions_echo_with_log_probabilities(client):
    answer = client.completions.create(
        model=NAME, prompt=["A list", "The"], max_tokens=2, echo=True, logprobs=1, temperature=0
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice, prompt in zip(answer.choices, ("A list", "The"), strict=True):
        assert choice.text.startswith(prompt)
        assert choice.logprobs.token_logprobs[0] is None
        assert all(logprob < 0 for logprob in choice.logprobs.token_logprobs[1:])


def test_a_response_is_what_the_chat_answers(client):
    fields = {"model": NAME, "max_output_tokens": 8, "temperature": 0}
    answer = client.responses.create(input=HELLO[0]["content"], **fields)
    assert answer.output_text == chat(client).choices[0].message.content
    assert (answer.status, answer.usage.output_tokens) == ("incomplete", 8)
    events = list(client.responses.create(input=HELLO, stream=True, **fields))
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.output_text == answer.output_text
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == answer.output_text
    with pytest.raises(BadRequestError, match="previous_response_id is not supported"):
        client.responses.create(input="And?", previous_response_id=answer.id, **fields)


def test_a_response_has_the_log_probabilities_of_the_chat(client):
    fields = {
        "model": NAME,
        "input": HELLO,
        "max_output_tokens": 8,
        "temperature": 0,
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
    }
    answer = client.responses.create(**fields)
    (choice,) = chat(client, logprobs=True, top_logprobs=2).choices
    entries = [entry.model_dump() for entry in answer.output[0].content[0].logprobs]
    assert entries == [entry.model_dump() for entry in choice.logprobs.content]
    assert len(entries) == 8
    events = client.responses.create(stream=True, **fields)
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    streamed = [(entry.token, entry.logprob) for delta in deltas for entry in delta.logprobs]
    assert streamed == [(entry["token"], entry["logprob"]) for entry in entries]


class Status(BaseModel):
    """The form of an answer."""

    status: Literal["ok"]


def test_responses_call_tools_and_keep_to_schemas(client):
    answer = client.responses.create(
        model=NAME,
        input="Rain?",
        tools=[RESPONSES_WEATHER],
        tool_choice={"type": "function", "name": "get_weather"},
        max_output_tokens=60,
        temperature=0,
    )
    (call,) = answer.output
    assert (call.type, call.name) == ("function_call", "get_weather")
    fields = {"model": NAME, "input": "Well?", "text_format": Status, "temperature": 0}
    assert client.responses.parse(**fields).output_parsed == Status(status="ok")
    with client.responses.stream(**fields) as stream:
        assert stream.get_final_response().output_parsed == Status(status="ok")


def test_models_are_listed(client):
    (model,) = client.models.list().data
    assert (model.id, model.max_model_len) == (NAME, 256)
    assert client.models.retrieve(NAME).id == NAME


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"model": "other"}, NotFoundError, "The model `other` does not exist"),
        ({"messages": []}, BadRequestError, "messages"),
        ({"temperature": -1}, BadRequestError, "temperature"),
        ({"n": 9}, BadRequestError, "n is 9, allowed is 1..4"),
        (
            {"messages": [{"role": "user", "content": "list " * 400}]},
            BadRequestError,
            "This model's maximum context length is 256 tokens",
        ),
    ],
)
def test_errors_are_those_that_clients_know(client, fields, kind, words):
    with pytest.raises(kind, match=words) as caught:
        chat(client, **fields)
    assert caught.value.body["message"]
    assert caught.value.request_id


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health", 200),
        ("GET", "/ready", 200),
        ("GET", "/metrics", 200),
        ("GET", "/version", 200),
        ("GET", "/nothing", 404),
        ("GET", "/v1/models/other", 404),
        ("GET", "/v1/chat/completions", 405),
    ],
)
def test_other_routes(server, method, path, status):
    answer = httpx.request(method, server.url + path)
    assert answer.status_code == status
    assert status < 400 or answer.json()["error"]["message"]


def wait_until_idle(server):
    for _ in range(1000):
        stats = server.engine.stats
        if not (stats.running or stats.waiting or server.service.running):
            return
        time.sleep(0.01)
    raise AssertionError(server.engine.stats)


@pytest.fixture(scope="module")
def endless():
    """Serve a model whose answers go on for long, each step of which is quick."""
    with serving(HistoryModel(4096, 256), engine={"max_waiting": 50}) as server:
        yield server


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_client_that_goes_away_frees_its_row(endless, is_streamed):
    body = {"model": NAME, "messages": HELLO, "stream": is_streamed, "ignore_eos": True}
    content = json.dumps(body).encode()
    host, port = endless.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: "
        connection.sendall(f"{head}{len(content)}\r\n\r\n".encode() + content)
        while not endless.service.running:
            time.sleep(0.001)
    wait_until_idle(endless)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(width=32) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)
FIELDS = st.sampled_from(
    sorted(
        {
            *ChatCompletionFields.model_fields,
            *CompletionFields.model_fields,
            *ResponseFields.model_fields,
            *TokenizeRequest.model_fields,
            *DetokenizeRequest.model_fields,
        }
    )
)


SMALLEST = {
    "/v1/chat/completions": {"messages": HELLO, "max_tokens": 2},
    "/v1/completions": {"prompt": "A", "max_tokens": 2},
    "/v1/responses": {"input": "A", "max_output_tokens": 2},
    "/tokenize": {"prompt": "A"},
    "/detokenize": {"tokens": [5]},
}


@hypothesis.settings(max_examples=150)
@hypothesis.given(
    st.sampled_from(sorted(SMALLEST)),
    st.dictionaries(FIELDS, JSON, max_size=5) | st.binary(max_size=40),
)
def test_no_body_is_an_error_of_the_server(endless, http, path, body):
    if isinstance(body, dict):
        body = json.dumps({"model": NAME, **SMALLEST[path], **body}).encode()
    answer = http.post(endless.url + path, content=body)
    assert answer.status_code in {200, 400, 404, 429}, answer.text
    assert answer.status_code == 200 or len(answer.json()["error"]["message"].splitlines()) == 1


def test_deep_and_huge_bodies_are_refused(endless):
    for body, status in ((b"[" * 200_000, 400), (b"x" * (9 << 20), 413)):
        answer = httpx.post(f"{endless.url}/v1/chat/completions", content=body)
        assert answer.status_code == status


def test_an_error_within_a_stream_is_an_event():
    with serving(HistoryModel(4096, 256, fails_at=3)) as server:
        client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        with pytest.raises(APIError, match="engine failed"):
            list(chat(client, stream=True, max_tokens=100, extra_body={"ignore_eos": True}))
        server.thread.join(30)  # a server whose engine has failed ends
        assert not server.thread.is_alive()
    assert not server.service.thread.is_alive
