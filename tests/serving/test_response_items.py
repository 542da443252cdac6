"""Items of a response: they grow by events from which a client makes the same items."""

from typing import get_args

import hypothesis
import pytest
from hypothesis import strategies as st
from openai.types.responses import ResponseOutputItem, ResponseStreamEvent
from pydantic import TypeAdapter

from mimo_v2_flash.serving.response_items import OutputItems
from mimo_v2_flash.text.chat_output import DeltaMessage, DeltaToolCall

EVENTS = {
    get_args(kind.model_fields["type"].annotation)[0]: kind
    for kind in get_args(get_args(ResponseStreamEvent)[0])
}
ITEM = TypeAdapter(ResponseOutputItem)
TEXTS = st.sampled_from(["a", "b c", "\n", ""])


def check_event(event):
    """Raise ValidationError if an event is none of OpenAI's."""
    EVENTS[event["type"]].model_validate(event)


@st.composite
def answers(draw):
    """Draw the deltas of an answer: texts, thinking and calls in turn."""
    deltas, calls = [], 0
    for kind in draw(st.lists(st.sampled_from(["text", "thinking", "call"]), max_size=5)):
        for number, text in enumerate(draw(st.lists(TEXTS, min_size=1, max_size=4))):
            if kind == "text":
                deltas.append(DeltaMessage(text))
            elif kind == "thinking":
                deltas.append(DeltaMessage(reasoning_content=text))
            else:
                first = {} if number else {"id": f"call_{calls}", "name": "f"}
                call = DeltaToolCall(
                    calls, arguments=text, is_complete=draw(st.booleans()), **first
                )
                deltas.append(DeltaMessage(tool_call=call))
        calls += kind == "call"
    return deltas


def rebuilt(events):
    """Return the items that a client makes of events, and those that events have whole."""
    texts, whole = {}, []
    for event in events:
        kind = event["type"]
        if kind == "response.output_item.added":
            texts[event["output_index"]] = ""
        elif kind.endswith(".delta"):
            texts[event["output_index"]] += event["delta"]
        elif kind == "response.output_item.done":
            whole.append(event["item"])
    return list(texts.values()), whole


def text_of(item):
    if item["type"] == "function_call":
        return item["arguments"]
    return "".join(part["text"] for part in item["content"])


@hypothesis.given(answers(), st.booleans())
def test_events_make_the_items(deltas, is_cut):
    items = OutputItems()
    events = [event for delta in deltas for event in items.push(delta)]
    events += items.end(is_cut=is_cut)
    for event in events:
        check_event(event | {"sequence_number": 0})
    for item in items.items:
        ITEM.validate_python(item)
    texts, whole = rebuilt(events)
    assert whole == items.items
    assert [text_of(item) for item in whole] == texts
    sent = [(delta.content or delta.reasoning_content or "") for delta in deltas]
    arguments = [delta.tool_call.arguments for delta in deltas if delta.tool_call]
    assert len("".join(texts)) == len("".join([*sent, *arguments]))
    assert len({item["id"] for item in whole}) == len(whole)


@pytest.mark.parametrize("is_cut", [False, True])
@pytest.mark.parametrize("is_complete", [False, True])
def test_an_item_that_was_cut_is_incomplete(is_cut, is_complete):
    items = OutputItems()
    items.push(DeltaMessage("a"))
    items.push(DeltaMessage(tool_call=DeltaToolCall(0, "1", "f", "{", is_complete=is_complete)))
    items.end(is_cut=is_cut)
    assert [item["status"] for item in items.items] == [
        "completed",
        "completed" if is_complete else "incomplete",
    ]
    items.push(DeltaMessage(reasoning_content="b"))
    items.end(is_cut=is_cut)
    assert items.items[-1]["status"] == ("incomplete" if is_cut else "completed")
