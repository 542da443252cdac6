"""Clients of other projects: LangChain, LiteLLM, and checkers of the API (make test-clients)."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.support.scripted_model import ScriptedModel
from tests.support.served import NAME, WEATHER, served_tiny, serving

pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("default")]  # theirs are not ours

CALL = "<tool_call>\n<function={}>\n<parameter={}>Rome</parameter>\n</function>\n</tool_call>"
SCRIPT = {
    "Hello": "<think>A greeting.</think>Good day.",
    "Rain?": "Let me see." + CALL.format("get_weather", "city"),
    "Call the provided tool with value CANARY_OK.": CALL.format("compatcanary_echo", "value"),
    "What is the weather in San Francisco?": CALL.format("get_weather", "location"),
    "Return the requested compatibility status.": '{"status": "ok"}',
}
IMAGES = {"chat-image-input", "image-input"}  # the model reads texts alone


@pytest.fixture(scope="module")
def url():
    """Serve a model that answers as SCRIPT says, and else repeats what it is told."""
    with serving(ScriptedModel(served_tiny().tokenizer, SCRIPT, 512)) as server:
        yield f"{server.url}/v1"


@pytest.fixture(params=[False, True], ids=["chat", "responses"])
def langchain(url, request):
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(
        model=NAME, base_url=url, api_key="none", max_retries=0, use_responses_api=request.param
    )


def test_langchain_chats_and_streams(langchain):
    answer = langchain.invoke("Hello")
    assert answer.text == "Good day."
    assert answer.usage_metadata["output_token_details"]["reasoning"] > 0
    chunks = list(langchain.stream("Hello"))
    assert "".join(chunk.text for chunk in chunks) == "Good day."
    assert len(chunks) > 3


def test_langchain_calls_a_tool_and_sends_its_result(langchain):
    from langchain_core.messages import HumanMessage, ToolMessage

    bound = langchain.bind_tools([WEATHER])
    answer = bound.invoke("Rain?")
    (call,) = answer.tool_calls
    assert (answer.text, call["name"], call["args"]) == (
        "Let me see.",
        "get_weather",
        {"city": "Rome"},
    )
    result = ToolMessage("It rains.", tool_call_id=call["id"])
    again = bound.invoke([HumanMessage("Rain?"), answer, result])
    assert again.usage_metadata["input_tokens"] > answer.usage_metadata["input_tokens"]
    whole = None
    for chunk in bound.stream("Rain?"):
        whole = chunk if whole is None else whole + chunk
    assert [(each["name"], each["args"]) for each in whole.tool_calls] == [
        ("get_weather", {"city": "Rome"})
    ]


@pytest.fixture
def litellm(url, monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network
    import litellm

    def complete(text, **fields):
        messages = [{"role": "user", "content": text}]
        options = {"api_base": url, "api_key": "none", "num_retries": 0, **fields}
        return litellm.completion(f"hosted_vllm/{NAME}", messages, **options)

    return complete


def test_litellm_chats_and_streams(litellm):
    message = litellm("Hello").choices[0].message
    assert (message.content, message.reasoning_content) == ("Good day.", "A greeting.")
    deltas = [chunk.choices[0].delta for chunk in litellm("Hello", stream=True)]
    assert "".join(delta.content or "" for delta in deltas) == "Good day."
    thoughts = [getattr(delta, "reasoning_content", None) or "" for delta in deltas]
    assert "".join(thoughts) == "A greeting."


def test_litellm_calls_a_tool(litellm):
    from litellm import stream_chunk_builder

    whole = litellm("Rain?", tools=[WEATHER])
    streamed = stream_chunk_builder(list(litellm("Rain?", tools=[WEATHER], stream=True)))
    for answer in (whole, streamed):
        (choice,) = answer.choices
        (call,) = choice.message.tool_calls
        assert choice.finish_reason == "tool_calls"
        assert call.function.name == "get_weather"
        assert json.loads(call.function.arguments) == {"city": "Rome"}


@pytest.mark.parametrize("form", ["openai-chat", "open-responses"])
def test_llm_comply_finds_nothing(url, form):
    command = [sys.executable, "-m", "llm_comply.cli", "--format", form, "--json"]
    options = ["-u", url, "-k", "none", "-m", NAME]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    results = json.loads(done.stdout)["results"]
    assert len(results) > 8
    failed = [each for each in results if each["status"] == "failed"]
    assert {each["id"] for each in failed} <= IMAGES, failed


def test_compatcanary_finds_nothing(url):
    npx = shutil.which("npx")
    if npx is None:
        pytest.skip("no Node: npx runs compatcanary")
    command = [npx, "--yes", "compatcanary@0.2.2", "scan", "--base-url", url, "--model", NAME]
    done = subprocess.run(
        [*command, "--profile", "modern", "--format", "json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.stderr.startswith("npm error"):
        pytest.skip(f"npx does not get compatcanary: {done.stderr.splitlines()[0]}")
    report = json.loads(done.stdout)
    assert [each for each in report["results"] if each["status"] != "pass"] == []
    assert report["compatible"]
