"""Transcripts of answers, and the messages that they are: cases of bug reports of other parsers."""

import json

from mimo_v2_flash.text.chat_output import ChatMessage, ToolCall

__all__ = ["NOW", "TRANSCRIPTS", "WEATHER", "canonical", "message_of", "value"]

WEATHER = "<tool_call><function=weather><parameter=city>Bern</parameter></function></tool_call>"
NOW = "<tool_call>\n<function=now>\n</function>\n</tool_call>"
BERN = ("weather", {"city": "Bern"})


def value(text: str) -> str:
    """Return a call with a value."""
    return f"<tool_call><function=weather><parameter=city>{text}</parameter></function></tool_call>"


# Text, whether the prompt leaves thinking open, reasoning, content, calls.
TRANSCRIPTS = {
    # thinking
    "plain": ("c", False, None, "c", []),
    "thinking": ("<think>r</think>c", True, "r", "c", []),
    "thinking that the prompt began": ("r</think>c", True, "r", "c", []),
    "thinking that nobody announced": ("\n<think>r</think>c", False, "r", "c", []),
    "thinking that is cut": ("r", True, "r", None, []),
    "no thinking": ("<think></think>c", True, None, "c", []),
    "thinking ends twice": ("r</think></think>c", True, "r", "c", []),
    "thinking of newlines": ("\n\n</think>", True, "\n\n", None, []),
    "newlines around tags": ("<think>\nr\n</think>\n\nc\n", True, "\nr\n", "\n\nc\n", []),
    "a tag in the text": ("c <think> d", False, None, "c <think> d", []),
    "thinking begins twice": ("<think>a<think>b</think>c", True, "ab", "c", []),
    # calls
    "a call": (WEATHER, False, None, None, [BERN]),
    "a call without arguments": (NOW, False, None, None, [("now", {})]),
    "two calls": (WEATHER + NOW, False, None, None, [BERN, ("now", {})]),
    "two calls on lines": (f"\n{NOW}\n{NOW}\n", False, None, None, [("now", {})] * 2),
    "text around calls": (f"a\n\n{NOW}b{WEATHER} c", False, None, "a\n\nb c", [("now", {}), BERN]),
    "thinking, text and a call": (f"r</think>c{NOW}", True, "r", "c", [("now", {})]),
    "thinking and a call": (f"r</think>\n\n{NOW}", True, "r", None, [("now", {})]),
    "a call within thinking": (f"a{NOW}b</think>c", True, "ab", "c", [("now", {})]),
    "a call ends thinking": (f"a{NOW}\n</think>\n{NOW}", True, "a", None, [("now", {})] * 2),
    "two functions in one": (
        "<tool_call><function=now></function><function=weather><parameter=city>Bern</parameter>"
        "</function></tool_call>c",
        *(False, None, "c", [("now", {}), BERN]),
    ),
    "text before the end of a call": (
        "<tool_call><function=now></function> so </tool_call>c",
        *(False, None, " so c", [("now", {})]),
    ),
    "a function without its wrapper": (
        "a<function=now></function>b",
        *(False, None, "ab", [("now", {})]),
    ),
    "an unknown function": (
        "<tool_call><function=go><parameter=x>1</parameter></function></tool_call>",
        *(False, None, None, [("go", {"x": "1"})]),
    ),
    "an unknown parameter": (
        "<tool_call><function=weather><parameter=x>1</parameter></function></tool_call>",
        *(False, None, None, [("weather", {"x": "1"})]),
    ),
    "a parameter twice": (
        "<tool_call><function=weather><parameter=city>a</parameter><parameter=city>b</parameter>"
        "</function></tool_call>",
        *(False, None, None, [("weather", {"city": "b"})]),
    ),
    "no end of the last value": (
        "<tool_call><function=weather><parameter=days>\n5\n</function>\n</tool_call>c",
        *(False, None, "c", [("weather", {"days": 5})]),
    ),
    "no end of a value": (
        "<tool_call><function=weather><parameter=city>a<parameter=days>5</parameter></function>"
        "</tool_call>",
        *(False, None, None, [("weather", {"city": "a", "days": 5})]),
    ),
    "no end of the function": (
        "<tool_call><function=weather><parameter=city>Bern</parameter></tool_call>c",
        *(False, None, "c", [BERN]),
    ),
    "no end of the value and the function": (
        f"<tool_call><function=weather><parameter=city>Bern</tool_call>{NOW}",
        *(False, None, None, [BERN, ("now", {})]),
    ),
    "no end of the call": (
        "<tool_call><function=now></function>c",
        *(False, None, "c", [("now", {})]),
    ),
    # text that is no call
    "a tag at the end": ("hi <tool_call>\n", False, None, "hi <tool_call>\n", []),
    "a function's tag alone": ("<function=", False, None, "<function=", []),
    "an unknown function without its wrapper": (
        "<function= y> and <function=f></function>",
        *(False, None, "<function= y> and <function=f></function>", []),
    ),
    "C++": ("#include <functional>", False, None, "#include <functional>", []),
    "a marker in thinking": (
        f"write <tool_call> so</think>c{NOW}",
        *(True, "write <tool_call> so", "c", [("now", {})]),
    ),
    "a marker in text": (
        f"write <tool_call> and </tool_call>, then {NOW}",
        *(False, None, "write <tool_call> and </tool_call>, then ", [("now", {})]),
    ),
    "a body without parameters": (
        "<tool_call><function=now>ls -l</parameter></function></tool_call>",
        False,
        None,
        "<tool_call><function=now>ls -l</parameter></function></tool_call>",
        [],
    ),
    "a JSON call": (
        '<tool_call>{"name": "now"}</tool_call>',
        *(False, None, '<tool_call>{"name": "now"}</tool_call>', []),
    ),
}
VALUES = (
    *("", "\n", "\n\n a\n b \n", '"\\', "<b>&amp;</b>", "null", "5", "True", "a < b > c", "</"),
    *("<tool_call>", "a</tool_call>b", "</parameter>", "a</parameter>b", "</function>", "<think>"),
    *("see <parameter=x>q</parameter>.", "<function=now></function>", "こんにちは 🙂", "</think>"),
    "<parameter=city>",
)
for text in VALUES:
    TRANSCRIPTS[f"the value {text!r}"] = (
        value(text),
        *(False, None, None, [("weather", {"city": text})]),
    )


def message_of(transcript) -> ChatMessage:
    _, _, reasoning, content, calls = transcript
    return ChatMessage(
        content,
        reasoning,
        tuple(
            ToolCall(str(index), name, json.dumps(arguments, ensure_ascii=False), is_complete=True)
            for index, (name, arguments) in enumerate(calls)
        ),
    )


def canonical(message: ChatMessage) -> ChatMessage:
    """Return a message whose arguments are written as `json` writes what they are."""
    calls = tuple(
        ToolCall(
            c.id, c.name, json.dumps(json.loads(c.arguments), ensure_ascii=False), c.is_complete
        )
        for c in message.tool_calls
    )
    return ChatMessage(message.content, message.reasoning_content, calls)
