"""Runner: chats and completions from Python, in OpenAI's shapes, from many threads."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from mimo_v2_flash import ChatCompletionRequest, CompletionRequest, Runner, Which
from tests.support.served import WEATHER

HELLO = [{"role": "user", "content": "Hello, how are you?"}]
PLAIN = Which.Plain(model_id="examples/mimo-tiny", architecture="mimov2flash")


@pytest.fixture(scope="module")
def runner():
    with Runner(which=PLAIN, max_seqs=4, max_length=256) as runner:
        yield runner


def test_a_chat_is_answered(runner):
    result = runner.chat_completion(messages=HELLO, max_tokens=6, temperature=0)
    assert isinstance(result.choices[0].message.content, str)
    assert result.usage.completion_tokens == 6


def test_a_request_object_is_the_same(runner):
    fields = {"max_tokens": 6, "temperature": 0, "stop_seqs": ["never"], "n_choices": 2}
    request = ChatCompletionRequest(messages=HELLO, model="default", **fields)
    result = runner.send_chat_completion_request(request)
    expected = runner.chat_completion(HELLO, max_tokens=6, temperature=0)
    texts = [choice.message.content for choice in result.choices]
    assert texts == [expected.choices[0].message.content] * 2


def test_a_stream_yields_chunks(runner):
    chunks = list(runner.chat_completion(HELLO, max_tokens=6, temperature=0, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    whole = runner.chat_completion(HELLO, max_tokens=6, temperature=0)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "length"


def test_a_stream_that_is_left_ends_its_answer(runner):
    chunks = runner.chat_completion(HELLO, stream=True, ignore_eos=True)
    next(chunks)
    next(chunks)
    chunks.close()
    runner.completion("A", max_tokens=1)
    assert runner.stats.running == 0


def test_completions_continue_texts(runner):
    result = runner.send_completion_request(
        CompletionRequest("The list type", max_tokens=4, temperature=0, echo_prompt=True)
    )
    assert result.choices[0].text == "The list type is a list of"


def test_many_threads_share_a_runner(runner):
    prompts = [f"The type number {index}" for index in range(8)]

    def text(prompt):
        return runner.completion(prompt, max_tokens=5, temperature=0).choices[0].text

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(text, prompts)) == list(map(text, prompts))


def test_tools_and_thinking_have_mistralrs_names(runner):
    request = ChatCompletionRequest(
        HELLO,
        tool_schemas=['{"type": "function", "function": {"name": "now"}}'],
        enable_thinking=True,
        max_tokens=3,
    )
    assert request.fields["tools"][0]["function"]["name"] == "now"
    assert runner.send_chat_completion_request(request).choices[0].message.content == ""
    call = {"tool_choice": "required", "tools": [WEATHER], "max_tokens": 3}
    assert runner.chat_completion(HELLO, **call).usage.completion_tokens == 3


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"messages": []}, "messages"),
        ({"messages": HELLO, "temperature": -1}, "temperature is -1"),
        ({"messages": [{"role": "user", "content": "list " * 400}]}, "maximum context length"),
    ],
)
def test_what_is_not_allowed_is_a_value_error(runner, fields, words):
    with pytest.raises(ValueError, match=words):
        runner.chat_completion(**fields)


def test_another_architecture_is_refused():
    with pytest.raises(ValueError, match="architecture is 'llama', allowed is mimov2flash"):
        Which.Plain(model_id="x", arch="llama")


def test_a_closed_runner_says_so():
    with Runner(which=PLAIN, max_seqs=1, max_length=64) as runner:
        assert runner.max_sequence_length == 64
        assert runner.detokenize_text(runner.tokenize_text("a list")) == "a list"
    with pytest.raises(RuntimeError, match="closed"):
        runner.completion("A")


def test_drafts_change_no_greedy_text(runner):
    texts, drafted = [], []
    for drafts in (0, 3):
        with Runner(which=PLAIN, max_seqs=1, max_length=256, draft_tokens=drafts) as drafting:
            answer = drafting.completion("The list type", max_tokens=12, temperature=0)
            texts.append(answer.choices[0].text)
            drafted.append(drafting.stats.drafted)
    assert texts[0] == texts[1]
    assert drafted[0] == (0, 0, 0)
    assert min(drafted[1]) > 0


def test_more_drafts_than_heads_are_refused():
    with pytest.raises(ValueError, match="draft_tokens is 4, but the model has 3 MTP heads"):
        Runner(which=PLAIN, draft_tokens=4)
