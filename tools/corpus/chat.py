"""A made conversation: messages, tools, and what its last answer has to be."""

import re
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["LIST", "Chat", "answer", "answered", "shaped", "user"]

Message = dict[str, Any]
LIST = r"(- [^\n]+\n)*- [^\n]+"
"""The form of a list."""


@dataclass(frozen=True)
class Chat:
    """A conversation whose last message is the answer that is learned.

    Attributes
    ----------
    kind
        What is asked, such as "summary" or "call".
    messages
        OpenAI's messages.
    form
        Regular expression of the whole content of the last answer; None if it is a call.
    content
        That content, where the conversation determines it; else None.
    call
        Name and arguments of the call that the last answer is; None if it is none.
    tools
        OpenAI's tools.
    thinks
        Whether the last answer begins with thinking.
    is_unseen_tool
        Whether the schema that is to be called is held out.
    """

    kind: str
    messages: list[Message]
    form: str | None = None
    content: str | None = None
    call: dict[str, Any] | None = None
    tools: list[dict[str, Any]] = field(default_factory=list)
    thinks: bool = False
    is_unseen_tool: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the conversation as JSON's types."""
        return asdict(self)


def user(content: str) -> Message:
    """Return a message of the user."""
    return {"role": "user", "content": content}


def answer(content: str) -> Message:
    """Return a message of the assistant."""
    return {"role": "assistant", "content": content}


def shaped(template: str) -> str:
    """Return the form of a template, in which each {} is text of one line."""
    return r"[^\n]+".join(map(re.escape, template.split("{}")))


def answered(kind: str, messages: list[Message], form: str, **fields: Any) -> Chat:
    """Return a conversation whose last message is the one right answer, and has a form."""
    return Chat(kind, messages, form, messages[-1]["content"], **fields)
