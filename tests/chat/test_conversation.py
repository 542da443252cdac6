"""Conversations: what is said stays, what fails or is taken back does not."""

import json

import pytest

from mimo_v2_flash.chat.conversation import Conversation, parse_value

GREEDY = {"temperature": 0, "max_tokens": 4}


@pytest.fixture
def conversation(runner):
    return Conversation(runner, settings=GREEDY)


def silent(kind, part):
    """Show nothing."""


def test_an_answer_is_shown_as_it_comes_and_kept(conversation):
    parts = []
    reply = conversation.reply("What is a list?", lambda kind, part: parts.append((kind, part)))
    assert {kind for kind, _ in parts} == {"content"}
    assert conversation.messages == [
        {"role": "user", "content": "What is a list?"},
        {"role": "assistant", "content": "".join(part for _, part in parts)},
    ]
    assert (reply.new_tokens, reply.finish_reason) == (4, "length")
    assert conversation.last == reply
    assert str(reply).endswith("tokens/s, length")


def test_turns_reuse_what_the_cache_holds(conversation):
    first = conversation.reply("What is a list of names?", silent)
    second = conversation.reply("And a set?", silent)
    assert second.prompt_tokens > first.prompt_tokens
    assert second.cached_tokens >= 32


def test_thinking_is_kept_apart(runner):
    conversation = Conversation(runner, settings=GREEDY, enable_thinking=True)
    kinds = []
    conversation.reply("What is a list?", lambda kind, _: kinds.append(kind))
    assert set(kinds) == {"reasoning"}
    assert conversation.messages[-1]["reasoning_content"]


def test_an_interrupt_ends_an_answer_of_which_the_rest_stays(conversation):
    conversation.set("max_tokens", 100)
    conversation.set("ignore_eos", True)
    parts = []

    def interrupt(_, part):
        parts.append(part)
        if len(parts) == 3:
            raise KeyboardInterrupt

    reply = conversation.reply("What is a list?", interrupt)
    assert reply.finish_reason == "interrupted"
    assert conversation.messages[-1]["content"] == "".join(parts)
    conversation.set("max_tokens", 2)
    assert conversation.reply("And then?", silent).new_tokens == 2


def test_a_message_that_fails_is_taken_back(conversation):
    with pytest.raises(ValueError, match="maximum context length"):
        conversation.reply("list " * 400, silent)
    assert conversation.messages == []


def test_the_last_answer_is_made_again_or_taken_back(conversation):
    conversation.reply("What is a list?", silent)
    before = [*conversation.messages]
    conversation.regenerate(silent)
    assert conversation.messages == before
    conversation.undo()
    assert conversation.messages == []
    for refused in (lambda: conversation.regenerate(silent), conversation.undo):
        with pytest.raises(ValueError, match="there is no"):
            refused()


def test_a_file_may_end_with_a_message_that_waits_for_its_answer(conversation, tmp_path):
    turns = [
        {"role": "user", "content": "What is a list?"},
        {"role": "assistant", "content": "A type."},
        {"role": "user", "content": "And a set?"},
    ]
    (tmp_path / "chat.json").write_text(json.dumps({"messages": turns}))
    conversation.load(tmp_path / "chat.json")
    conversation.set("max_tokens", 2)
    conversation.regenerate(silent)
    assert [*conversation.messages[:-1]] == turns
    assert conversation.messages[-1]["role"] == "assistant"
    conversation.undo()
    assert conversation.messages == turns[:2]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("temperature", -1, "temperature is -1"),
        ("top_p", "x", "top_p"),
        ("messages", [], "no setting"),
        ("n", 3, "no setting"),
    ],
)
def test_a_setting_that_is_not_allowed_changes_nothing(conversation, name, value, words):
    with pytest.raises(ValueError, match=words):
        conversation.set(name, value)
    assert conversation.settings == GREEDY
    conversation.set("max_tokens", None)
    assert conversation.settings == {"temperature": 0}


def test_a_saved_conversation_goes_on(conversation, runner, tmp_path):
    conversation.system = "Be brief."
    conversation.reply("What is a list?", silent)
    conversation.save(tmp_path / "chat.json")
    other = Conversation(runner)
    other.load(tmp_path / "chat.json")
    assert other.request() == conversation.request()
    assert other.tokens() == conversation.tokens() > 0


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{",
        "{}",
        json.dumps({"messages": 3}),
        json.dumps({"messages": [{"role": "king", "content": "x"}]}),
        json.dumps({"messages": [], "settings": {"temperature": "hot"}}),
        json.dumps({"messages": [], "settings": 3}),
    ],
)
def test_a_file_that_is_no_conversation_changes_nothing(conversation, tmp_path, content):
    conversation.reply("What is a list?", silent)
    before = conversation.request()
    (tmp_path / "chat.json").write_text(content)
    with pytest.raises(ValueError, match=r"chat\.json"):
        conversation.load(tmp_path / "chat.json")
    assert conversation.request() == before


def test_a_value_is_json_or_a_text():
    texts = ("0.3", "[1]", "null", "hot", "", '1, "x": 2')
    assert [*map(parse_value, texts)] == [0.3, [1], None, "hot", "", '1, "x": 2']
