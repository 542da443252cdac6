"""Conversations with tools: a call, its result told in words, or no call where none is needed."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .chat import Chat, Message, answer, answered, shaped, user
from .text_chats import TextChats
from .tool_schemas import TOOLS, Tool, draw_tool, spoken
from .values import Values

__all__ = ["TOOL_CHATS", "ToolChats"]

WRITTEN = 0.4  # share of conversations about a written tool
NO_TOOL = "I have no tool for that."


class ToolChats:
    """Makes conversations with tools.

    Parameters
    ----------
    values
        Source of drawn values.
    tools
        Source of drawn tools: of the other side to use known schemas with held-out values.
    texts
        Makes what needs no tool.
    """

    def __init__(self, values: Values, tools: Values, texts: TextChats) -> None:
        self._values, self._tools, self._texts = values, tools, texts
        self._written = [each for each in TOOLS if each.is_held_out == tools.held_out]

    def _tool(self) -> Tool:
        if self._written and self._values.random.random() < WRITTEN:
            return self._values.random.choice(self._written)
        return draw_tool(self._tools)

    def _offered(self) -> list[Tool]:
        """Return one to three tools of different names."""
        offered: dict[str, Tool] = {}
        for _ in range(self._values.random.choice((1, 2, 2, 3))):
            tool = self._tool()
            offered.setdefault(tool.name, tool)
        return [*offered.values()]

    def _call(self, tool: Tool) -> tuple[dict[str, Any], list[Message]]:
        """Return a call of a tool, and its messages: the question, and what the assistant says."""
        question = self._values.random.choice(tool.questions)
        names = re.findall(r"{(\w+)}", question)
        arguments = {
            name: each.draw(self._values) for name, each in tool.parameters.items() if name in names
        }
        content = question.format(**{name: spoken(each) for name, each in arguments.items()})
        call = {"name": tool.name, "arguments": arguments}
        return call, [user(content), calling(call)]

    def _round(self, tool: Tool) -> list[Message]:
        """Return the messages of a call, its result, and the answer."""
        result = getattr(self._values, tool.result)()
        message = {"role": "tool", "tool_call_id": "call_0", "content": result}
        return [*self._call(tool)[1], message, answer(tool.answer.format(result=result))]

    def _before(self, tools: list[Tool]) -> list[Message]:
        """Return up to two earlier rounds."""
        rounds = range(self._values.random.choice((0, 0, 1, 2)))
        return [each for _ in rounds for each in self._round(self._values.random.choice(tools))]

    def call(self) -> Chat:
        """Return a question that needs a tool."""
        tools = self._offered()
        tool = self._values.random.choice(tools)
        call, messages = self._call(tool)
        schemas = [each.schema() for each in tools]
        chat = Chat("call", [*self._before(tools), *messages], call=call, tools=schemas)
        return replace(chat, is_unseen_tool=tool.is_held_out)

    def result(self) -> Chat:
        """Return a call with its result."""
        tools = self._offered()
        tool = self._values.random.choice(tools)
        messages = [*self._before(tools), *self._round(tool)]
        schemas = [each.schema() for each in tools]
        form = shaped(tool.answer.format(result="{}"))
        return answered("result", messages, form, tools=schemas, is_unseen_tool=tool.is_held_out)

    def no_call(self) -> Chat:
        """Return a conversation that needs none of its tools."""
        make = self._values.random.choice(
            (TextChats.summary, TextChats.greeting, TextChats.bullets, TextChats.definition)
        )
        tools = self._offered()
        chat = make(self._texts)
        messages = [*self._before(tools), *chat.messages]
        schemas = [each.schema() for each in tools]
        return replace(chat, kind="no call", messages=messages, tools=schemas)

    def no_tool(self) -> Chat:
        """Return a question whose tool is not there."""
        tools, absent = self._offered(), self._tool()
        while absent.subject in {each.subject for each in tools}:
            absent = self._tool()
        question = self._call(absent)[1][0]
        messages = [*self._before(tools), question, answer(NO_TOOL)]
        schemas = [each.schema() for each in tools]
        return answered("no tool", messages, shaped(NO_TOOL), tools=schemas)


def calling(call: dict[str, Any]) -> Message:
    """Return the assistant's message that calls a tool."""
    function = {"name": call["name"], "arguments": json.dumps(call["arguments"])}
    entry = {"id": "call_0", "type": "function", "function": function}
    return {"role": "assistant", "content": "", "tool_calls": [entry]}


TOOL_CHATS: tuple[tuple[float, Callable[[ToolChats], Chat]], ...] = (
    (3, ToolChats.call),
    (5, ToolChats.result),
    (1.5, ToolChats.no_call),
    (0.5, ToolChats.no_tool),
)
"""Weights and makers of all kinds."""
