"""chat_output: deltas together are the message, and why it ended in OpenAI's words."""

import pytest

from mimo_v2_flash.text.chat_output import (
    ChatMessage,
    DeltaMessage,
    DeltaToolCall,
    ToolCall,
    join_deltas,
)


def test_deltas_together_are_the_message():
    deltas = [
        DeltaMessage(reasoning_content="r"),
        DeltaMessage("a"),
        DeltaMessage(tool_call=DeltaToolCall(0, "1", "f")),
        DeltaMessage(tool_call=DeltaToolCall(0, arguments="{}", is_complete=True)),
        DeltaMessage("b"),
        DeltaMessage(reasoning_content="s"),
        DeltaMessage(tool_call=DeltaToolCall(1, "2", "g")),
        DeltaMessage(tool_call=DeltaToolCall(1, arguments='{"a": ')),
        DeltaMessage(tool_call=DeltaToolCall(1, arguments="5}")),
    ]
    calls = (ToolCall("1", "f", "{}", True), ToolCall("2", "g", '{"a": 5}', False))
    assert join_deltas(deltas) == ChatMessage("ab", "rs", calls)


def test_nothing_is_none():
    assert join_deltas([]) == ChatMessage(None, None, ())


@pytest.mark.parametrize("reason", ["stop", "length", "cancelled", "error"])
@pytest.mark.parametrize("complete", [(), (True,), (True, True), (True, False), (False,)])
def test_only_whole_calls_that_the_model_ended_are_a_reason(reason, complete):
    calls = tuple(ToolCall("1", "f", "{}", is_complete=each) for each in complete)
    is_call = reason == "stop" and bool(complete) and all(complete)
    finish_reason = ChatMessage("a", None, calls).finish_reason(reason)
    assert finish_reason == ("tool_calls" if is_call else reason)
