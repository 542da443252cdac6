"""The parser of a chat's answer: thinking, text and tool calls, as tokens come.

A call is `<tool_call><function=NAME><parameter=KEY>VALUE</parameter>...</function></tool_call>`,
with or without whitespace between tags. Decision 0030 has the rules for what is malformed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import regex

from .chat_messages import normalize_tools
from .chat_output import DeltaMessage, DeltaToolCall
from .chat_template import THINK, THINK_END
from .stop_strings import StopDetokenizer
from .tool_arguments import ArgumentsWriter

if TYPE_CHECKING:
    from mimo_v2_flash.engine.outputs import TokenLogprob

__all__ = ["OutputParser", "TextParser"]

CALL, CALL_END = "<tool_call>", "</tool_call>"
MARKERS = (THINK, THINK_END, CALL, CALL_END)
FUNCTION_END, VALUE_END = "</function>", "</parameter>"
NAME = r"[^<>\r\n]{1,200}"  # a text that goes on longer is not held back


def _call_id() -> str:
    return f"call_{uuid4().hex}"


class _Patterns:
    """What is no text in an answer, and ends a value. A tag alone may be a part of the value."""

    def __init__(self, markers: Mapping[str, str], functions: Collection[str] | None) -> None:
        think, think_end, self._call, self._call_end = map(regex.escape, markers.values())
        self._following = rf"(?P<rest>\s*(?:<parameter={NAME}>|{FUNCTION_END}|{self._call_end}))"
        self.tag = regex.compile(
            rf"\s*(?:<parameter=(?P<key>{NAME})>|{FUNCTION_END}|(?P<wrapper>{self._call_end}))"
        )
        thinking = f"(?P<think>{think})|(?P<think_end>{think_end})"
        bare = wrapped = thinking
        if functions is not None:
            bare += f"|{self._begin(_either(functions))}"
            wrapped += f"|{self._begin(NAME)}|(?P<call_end>{self._call_end})"
        self._texts = (regex.compile(bare), regex.compile(wrapped))

    def _begin(self, names: str) -> str:
        """Return the pattern of a call's beginning; `names` are those without `<tool_call>`."""
        wrapped = rf"(?P<wrapper>{self._call})\s*<function=(?P<name>{NAME})>"
        return f"(?P<call>(?:{wrapped}|<function=(?P<name>{names})>){self._following})"

    def text(self, *, is_wrapped: bool) -> regex.Pattern[str]:
        """Return the pattern of what ends content or thinking."""
        return self._texts[is_wrapped]

    def value_end(self, missing: Collection[str]) -> regex.Pattern[str]:
        """Return the pattern of a value's end, if the parameters `missing` may still come."""
        parts = (
            f"{VALUE_END}{self._following}",
            rf"(?P<rest>{FUNCTION_END}\s*{self._call_end})",
            rf"(?P<rest>{self._call_end}\s*{self._call})",
            f"(?P<rest><parameter=(?:{_either(missing)})>)",
        )
        return regex.compile("|".join(parts))


def _either(names: Collection[str]) -> str:
    return "|".join(map(regex.escape, sorted(names))) or "(?!)"


class TextParser:
    """An incremental parser of an answer's text, in which markers may be stand-ins.

    However the text is split, all deltas together are the same.

    Parameters
    ----------
    tools
        OpenAI's tools; None if calls are text. Within `<tool_call>`, functions that are not among
        them are called too, with texts as arguments.
    is_reasoning
        Whether the text begins with thinking.
    standins
        The character that stands for a marker, by the marker; others are read as they are spelled.
    make_id
        It returns the id of a new call.

    Examples
    --------
    >>> parser = TextParser(is_reasoning=True)
    >>> [*parser.push("a sum</think>It is"), *parser.push(" 5.")]
    [DeltaMessage(content=None, reasoning_content='a sum', tool_call=None), \
DeltaMessage(content='It is', reasoning_content=None, tool_call=None), \
DeltaMessage(content=' 5.', reasoning_content=None, tool_call=None)]
    """

    def __init__(
        self,
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        is_reasoning: bool = False,
        standins: Mapping[str, str] | None = None,
        make_id: Callable[[], str] = _call_id,
    ) -> None:
        self._markers = {name: (standins or {}).get(name, name) for name in MARKERS}
        self._spelling = {ord(c): name for name, c in self._markers.items() if c != name}
        functions = [tool["function"] for tool in normalize_tools(tools)]
        self._parameters = {each["name"]: each.get("parameters") for each in functions}
        self._make_id = make_id
        self._patterns = _Patterns(self._markers, None if tools is None else self._parameters)
        self._value_end = self._patterns.value_end(())
        self._buffer, self._deltas = "", list[DeltaMessage]()
        self._read: Callable[[bool], bool] = self._read_text
        self.is_reasoning = is_reasoning
        self._is_start = True  # nothing but whitespace has come
        self._space: str | None = ""  # a text that is whitespace so far; None if it is not
        self._is_wrapped = False  # `<tool_call>` is open
        self._index = -1  # of the last call
        self._arguments = ArgumentsWriter(None)

    @property
    def is_content(self) -> bool:
        """Whether what comes next is content, as far as is known."""
        return not self.is_reasoning and self._read == self._read_text

    @property
    def is_holding(self) -> bool:
        """Whether text has come of which it is not yet certain what it is."""
        return bool(self._buffer or self._space)

    def push(self, text: str) -> list[DeltaMessage]:
        """Add text and return what no further text can change."""
        self._buffer += text
        return self._parse(is_end=False)

    def end(self) -> list[DeltaMessage]:
        """Return what remains at the end of the text."""
        return self._parse(is_end=True)

    def _parse(self, *, is_end: bool) -> list[DeltaMessage]:
        while self._read(is_end):
            pass
        if is_end and self._read == self._read_text:
            self._end_text()
        elif is_end:
            self._end_call(is_complete=False)
        deltas, self._deltas = self._deltas, []
        return deltas

    # A reader takes from the buffer what is certain; it returns whether there may be more to read.

    def _read_text(self, is_end: bool) -> bool:
        """Read content or thinking up to the next marker, and the marker."""
        pattern = self._patterns.text(is_wrapped=self._is_wrapped)
        match = pattern.search(self._buffer, partial=not is_end)
        start, end = match.span() if match else (len(self._buffer), len(self._buffer))
        self._emit_text(self._buffer[:start])
        if match is None or match.partial:
            self._buffer = self._buffer[start:]
            return False
        self._buffer = (match.groupdict().get("rest") or "") + self._buffer[end:]
        if match.lastgroup == "call":
            self._begin_call(match["name"], is_wrapped=match["wrapper"] is not None)
        elif match.lastgroup == "think":
            self._begin_thinking()
        elif match.lastgroup == "think_end":
            self._end_text()
            self.is_reasoning = False
        else:
            self._end_wrapper()
        self._is_start = False
        return True

    def _read_call(self, is_end: bool) -> bool:
        """Read the tag before a value, or the end of the call."""
        match = self._patterns.tag.match(self._buffer)
        if match is None:
            return False
        self._buffer = self._buffer[match.end() :]
        if match["key"]:
            self._emit_arguments(self._arguments.begin_value(match["key"]))
            self._value_end = self._patterns.value_end(self._arguments.missing)
            self._read = self._read_value
        else:
            self._is_wrapped &= match["wrapper"] is None
            self._end_call(is_complete=True)
        return True

    def _read_value(self, is_end: bool) -> bool:
        """Read the text of a value up to its end."""
        match = self._value_end.search(self._buffer, partial=True)
        start, end = match.span() if match else (len(self._buffer), len(self._buffer))
        rest = self._buffer[start:]
        is_whole = match is not None and not match.partial
        if is_end and not is_whole:  # an end tag that nothing follows
            is_whole = rest.startswith((VALUE_END, FUNCTION_END, self._markers[CALL_END]))
            start = start if is_whole else len(self._buffer)
            rest = rest.removeprefix(VALUE_END)
        elif match is not None and is_whole:
            rest = match["rest"] + self._buffer[end:]
        written = self._arguments.write(self._buffer[:start].translate(self._spelling))
        if is_whole:
            self._read = self._read_call
            written += self._arguments.end_value()
        elif is_end:
            written += self._arguments.cut_value()
        self._buffer = rest
        self._emit_arguments(written)
        return is_whole

    def _begin_thinking(self) -> None:
        """Begin thinking, at the start of an answer; elsewhere its marker is text or nothing."""
        if self._is_start and not self.is_reasoning:
            self.is_reasoning, self._space = True, ""
        elif not self.is_reasoning:
            self._emit_text(THINK)

    def _end_wrapper(self) -> None:
        """End `<tool_call>`; whitespace alone before its end is none of the text."""
        self._is_wrapped = False
        if self._space:
            self._space = ""

    def _begin_call(self, name: str, *, is_wrapped: bool) -> None:
        self._is_wrapped |= is_wrapped
        self._space = ""
        self._index += 1
        self._arguments = ArgumentsWriter(self._parameters.get(name))
        call = DeltaToolCall(self._index, self._make_id(), name)
        self._deltas.append(DeltaMessage(tool_call=call))
        self._read = self._read_call

    def _end_call(self, *, is_complete: bool) -> None:
        self._emit_arguments(self._arguments.end(), is_complete=is_complete)
        self._read = self._read_text

    def _emit_arguments(self, text: str, *, is_complete: bool = False) -> None:
        if text:
            call = DeltaToolCall(self._index, arguments=text, is_complete=is_complete)
            self._deltas.append(DeltaMessage(tool_call=call))

    def _emit_text(self, text: str) -> None:
        """Emit content or thinking; whitespace alone is held, since it may separate calls."""
        text = (self._space or "") + text.translate(self._spelling)
        if self._space is not None and (not text or text.isspace()):
            self._space = text
        elif text:
            self._emit_certain_text(text)

    def _emit_certain_text(self, text: str) -> None:
        self._space, self._is_start = None, False
        is_reasoning = self.is_reasoning
        delta = DeltaMessage(reasoning_content=text) if is_reasoning else DeltaMessage(text)
        self._deltas.append(delta)

    def _end_text(self) -> None:
        """End content or thinking: whitespace alone counts if there was no call."""
        if self._space and self._index < 0:
            self._emit_certain_text(self._space)
        self._space = ""


class OutputParser:
    """An incremental parser of an answer: tokens in, deltas out.

    Markers (`<think>`, `</think>`, `<tool_call>`, `</tool_call>`) are the tokens of that name; what
    merely spells them is text. A tokenizer without such a token has them as text.

    Parameters
    ----------
    tokenizer
        From `load_tokenizer`.
    tools
        As for `TextParser`, and the same as for `chat_prompt`.
    is_reasoning
        Whether the answer begins with thinking: `ChatPrompt.is_reasoning`.
    stop
        Stop strings, as for `StopDetokenizer`; what comes from the first on is dropped.
    min_tokens
        As for `StopDetokenizer`.
    make_id
        It returns the id of a new call.

    Examples
    --------
    >>> from mimo_v2_flash.text.chat_output import join_deltas
    >>> from mimo_v2_flash.text.tokenizer import load_tokenizer, tokens
    >>> tokenizer = load_tokenizer("examples/mimo-tiny")
    >>> parser = OutputParser(tokenizer)
    >>> new_tokens = tokens(tokenizer, "<think>a list</think>It is a list.<|im_end|>")
    >>> deltas = [delta for token in new_tokens for delta in parser.push(token)]
    >>> join_deltas([*deltas, *parser.end()])
    ChatMessage(content='It is a list.', reasoning_content='a list', tool_calls=())
    """

    def __init__(
        self,
        tokenizer: Any,
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        is_reasoning: bool = False,
        stop: Sequence[str] = (),
        min_tokens: int = 0,
        make_id: Callable[[], str] = _call_id,
    ) -> None:
        self._text = StopDetokenizer(tokenizer, stop, MARKERS, min_tokens)
        self._parser = TextParser(
            tools, is_reasoning=is_reasoning, standins=self._text.standins, make_id=make_id
        )
        self._logprobs: list[TokenLogprob] = []  # of tokens whose text may be content, but is held

    @property
    def is_reasoning(self) -> bool:
        """Whether what comes next is thinking, as far as is known."""
        return self._parser.is_reasoning

    @property
    def stop_reason(self) -> str | None:
        """The stop string that ended the answer; None if none did."""
        return self._text.stop_reason

    def push(self, token: int, logprob: TokenLogprob | None = None) -> list[DeltaMessage]:
        """Add a token and return what no further token can change.

        The text that it completes gets its log-probability and those of the tokens before whose
        text was held; markers, thinking and calls have none.
        """
        if logprob is not None:
            self._logprobs.append(logprob)
        return self._with_logprobs(self._parser.push(self._text.push(token)))

    def end(self) -> list[DeltaMessage]:
        """Return what remains at the end of the answer."""
        return self._with_logprobs([*self._parser.push(self._text.end()), *self._parser.end()])

    def _with_logprobs(self, deltas: list[DeltaMessage]) -> list[DeltaMessage]:
        """Give the log-probabilities to the first content, or drop those of what is no content."""
        texts = (index for index, delta in enumerate(deltas) if delta.content is not None)
        if self._logprobs and (index := next(texts, None)) is not None:
            deltas[index] = replace(deltas[index], logprobs=tuple(self._logprobs))
        is_held = self._parser.is_holding or self._text.is_holding
        if deltas or not (is_held and self._parser.is_content):
            self._logprobs = []
        return deltas
