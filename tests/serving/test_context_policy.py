"""Chats that are too long: whole turns go, the oldest first; the system's messages stay."""

import hypothesis
from hypothesis import strategies as st

from mimo_v2_flash.serving.context_policy import drop_oldest_turns
from mimo_v2_flash.text.chat_template import ChatPrompt


def render(messages):
    """Return a prompt of as many tokens as a message's text is long."""
    return ChatPrompt([0] * sum(len(message["content"]) for message in messages), False)


def chat(*roles, length=10):
    return [{"role": role, "content": "x" * length} for role in roles]


def kept_of(messages, limit):
    """Return what is left of messages."""
    seen = []

    def rendering(remaining):
        seen.append(list(remaining))
        return render(remaining)

    prompt, dropped = drop_oldest_turns(rendering, messages, limit)
    assert prompt == render(seen[-1])
    return seen[-1], dropped


def test_a_chat_that_fits_stays_whole():
    messages = chat("system", "user", "assistant", "user")
    assert kept_of(messages, 40) == (messages, 0)


def test_the_oldest_turn_goes_with_its_tools_results():
    messages = chat("system", "user", "assistant", "tool", "assistant", "user", "assistant", "user")
    kept, dropped = kept_of(messages, 45)
    assert [message["role"] for message in kept] == ["system", "user", "assistant", "user"]
    assert dropped == 1


def test_the_last_turn_stays_however_long_it_is():
    messages = chat("system", "user", "assistant", "user", length=100)
    kept, dropped = kept_of(messages, 5)
    assert [message["role"] for message in kept] == ["system", "user"]
    assert dropped == 1


@hypothesis.given(
    st.lists(st.sampled_from(["system", "user", "assistant", "tool"]), min_size=1, max_size=12),
    st.integers(0, 150),
)
def test_what_is_left_is_the_end_of_the_chat_and_its_system_messages(roles, limit):
    messages = [{"role": role, "content": chr(97 + index) * 10} for index, role in enumerate(roles)]
    kept, dropped = kept_of(messages, limit)
    assert [each for each in messages if each["role"] == "system"] == [
        each for each in kept if each["role"] == "system"
    ]
    others = [each for each in messages if each["role"] != "system"]
    remaining = [each for each in kept if each["role"] != "system"]
    starts = [index for index, each in enumerate(others) if each["role"] == "user"]
    if dropped:
        assert remaining == [*others[: starts[0]], *others[starts[dropped] :]]
    fits = len(render(kept).tokens) <= limit
    assert fits or dropped == max(len(starts) - 1, 0)
