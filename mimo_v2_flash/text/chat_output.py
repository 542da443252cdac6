"""What a model answers in a chat: small deltas while it comes, a message when it is whole."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from mimo_v2_flash.engine.outputs import TokenLogprob

__all__ = ["ChatMessage", "DeltaMessage", "DeltaToolCall", "ToolCall", "join_deltas"]


@dataclass(frozen=True, slots=True)
class DeltaToolCall:
    """A part of a tool call.

    Attributes
    ----------
    index
        Which call of the answer it belongs to, from 0 on.
    id, name
        The call's id and its function, in its first part only.
    arguments
        The next characters of its arguments; all parts together are a JSON object.
    is_complete
        Whether the model has ended the call, with its last part.
    """

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    is_complete: bool = False


@dataclass(frozen=True, slots=True)
class DeltaMessage:
    """The next part of an answer: text, thinking, or a part of a tool call, one of the three.

    Attributes
    ----------
    content, reasoning_content, tool_call
        The one that it is.
    logprobs
        Of the tokens that the text comes from, if they were pushed with the tokens.
    """

    content: str | None = None
    reasoning_content: str | None = None
    tool_call: DeltaToolCall | None = None
    logprobs: tuple[TokenLogprob, ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call of an answer.

    Attributes
    ----------
    id, name
        The call's id and its function.
    arguments
        A JSON object.
    is_complete
        Whether the model ended the call; if not, its last argument may be cut.
    """

    id: str
    name: str
    arguments: str
    is_complete: bool


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """A whole answer; what there is none of is None."""

    content: str | None
    reasoning_content: str | None
    tool_calls: tuple[ToolCall, ...]

    def finish_reason(self, reason: str) -> str:
        """Return OpenAI's finish reason for an answer that the engine ended with `reason`.

        It is "tool_calls" only if the model ended by itself and each call is complete.
        """
        is_whole = self.tool_calls and all(call.is_complete for call in self.tool_calls)
        return "tool_calls" if reason == "stop" and is_whole else reason


def join_deltas(deltas: Iterable[DeltaMessage]) -> ChatMessage:
    """Return the answer of which `deltas` are all the parts."""
    content: list[str] = []
    reasoning: list[str] = []
    calls: dict[int, list[DeltaToolCall]] = {}
    for delta in deltas:
        content.append(delta.content or "")
        reasoning.append(delta.reasoning_content or "")
        if delta.tool_call is not None:
            calls.setdefault(delta.tool_call.index, []).append(delta.tool_call)
    tool_calls = tuple(map(_join_call, calls.values()))
    return ChatMessage("".join(content) or None, "".join(reasoning) or None, tool_calls)


def _join_call(parts: list[DeltaToolCall]) -> ToolCall:
    first, last = parts[0], parts[-1]
    arguments = "".join(part.arguments for part in parts)
    return ToolCall(first.id or "", first.name or "", arguments, last.is_complete)
