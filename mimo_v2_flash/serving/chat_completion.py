"""Answers to requests of /v1/chat/completions: thinking, text and tool calls."""

import sys
from functools import partial
from itertools import repeat
from typing import Any

from mimo_v2_flash.engine.outputs import Event, TokenLogprob
from mimo_v2_flash.engine.request import Constraint
from mimo_v2_flash.json_object import shorten
from mimo_v2_flash.text.chat_output import ChatMessage, DeltaMessage, join_deltas
from mimo_v2_flash.text.chat_template import THINK_END, ChatPrompt, chat_prompt
from mimo_v2_flash.text.constraints import AllConstraints, StopStrings
from mimo_v2_flash.text.output_parser import OutputParser

from .answer_form import answer_form
from .answers import Choice, ResponseBuilder
from .context_policy import drop_oldest_turns
from .errors import APIError
from .event_stream import Submission
from .logprobs import chat_logprobs
from .protocol import ChatCompletionFields
from .served_model import ServedModel

__all__ = ["ChatCompletionBuilder"]

TEMPLATE_VARIABLES = ("enable_thinking", "keep_all_reasoning")


class ChatCompletionBuilder(ResponseBuilder):
    """The answer to a request of /v1/chat/completions.

    Parameters
    ----------
    request
        The request, checked.
    served
        The model.
    drops_turns
        Whether the oldest turns of a chat that is too long go; otherwise it is refused.
    """

    object, chunk_object, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    request: ChatCompletionFields

    def __init__(
        self, request: ChatCompletionFields, served: ServedModel, *, drops_turns: bool = True
    ) -> None:
        limit = request.max_tokens
        if request.max_completion_tokens is not None:
            limit = request.max_completion_tokens
        room = min(served.max_length // 4, served.max_length if limit is None else limit)
        most = served.max_length - room if drops_turns else sys.maxsize
        try:
            render = partial(_render, request, served)
            prompt, dropped = drop_oldest_turns(render, request.messages, most)
        except ValueError as error:
            raise APIError(str(error), param=str(error).partition("[")[0][:40]) from error
        served.check_length(prompt.tokens)
        logprobs = (request.top_logprobs or 0) if request.logprobs else None
        params = request.sampling(served.defaults, max_tokens=limit, logprobs=logprobs)
        constraint = _constraint(request, served, prompt)
        super().__init__(
            request, served, [Submission(prompt.tokens, params, constraint, request.priority or 0)]
        )
        self.notes = {"dropped_turns": dropped} if dropped else {}
        self._parsers = [self._parser(prompt) for _ in self.choices]
        self._deltas: list[list[DeltaMessage]] = [[] for _ in self.choices]
        self._unsent: list[list[TokenLogprob]] = [[] for _ in self.choices]
        self._reasoning_tokens = 0

    def _parser(self, prompt: ChatPrompt) -> OutputParser:
        has_calls = self.request.tools and self.request.tool_choice != "none"
        return OutputParser(
            self.served.tokenizer,
            self.request.tools if has_calls else None,
            is_reasoning=prompt.is_reasoning,
            stop=self.request.stops,
            min_tokens=self.request.min_tokens or 0,
        )

    def begin(self) -> list[dict[str, Any]]:
        """Return the chunks that say whose answers follow."""
        delta = {"role": "assistant", "content": ""}
        return [self._chunk([self._chunk_choice(choice, delta)]) for choice in self.choices]

    def _choice_chunks(self, choice: Choice, event: Event) -> list[dict[str, Any]]:
        deltas = self._wanted_deltas(choice, event)
        self._unsent[choice.index] += event.logprobs or ()
        choices = [self._chunk_choice(choice, _delta(delta)) for delta in deltas]
        if event.finish_reason:
            choices = [*choices, self._chunk_choice(choice, {}, choice.finish_reason)]
        if choices and self.request.logprobs:
            choices[0]["logprobs"] = self._logprobs(self._unsent[choice.index])
            self._unsent[choice.index] = []
        return [self._chunk([each]) for each in choices]

    def _wanted_deltas(self, choice: Choice, event: Event) -> list[DeltaMessage]:
        """Return what an event adds to a choice, but for what the request leaves out."""
        deltas = [delta for delta in self._parse(choice, event) if self._is_wanted(delta)]
        self._deltas[choice.index] += deltas
        if event.finish_reason:
            choice.finish_reason = self._finish_reason(choice, event.finish_reason)
        return deltas

    def _parse(self, choice: Choice, event: Event) -> list[DeltaMessage]:
        """Return what the tokens of an event add to a choice."""
        parser, deltas = self._parsers[choice.index], list[DeltaMessage]()
        logprobs = event.logprobs or repeat(None)
        for token, logprob in zip(self.text_tokens(choice, event), logprobs, strict=False):
            deltas += parser.push(token, logprob)
            self._reasoning_tokens += parser.is_reasoning
        if event.finish_reason:
            deltas += parser.end()
            choice.stop_reason = parser.stop_reason or choice.stop_reason
            if parser.stop_reason and self.request.include_stop_str_in_output:
                deltas.append(DeltaMessage(content=parser.stop_reason))
        return deltas

    def _is_wanted(self, delta: DeltaMessage) -> bool:
        if delta.tool_call is not None:
            return delta.tool_call.index == 0 or self.request.parallel_tool_calls is not False
        return delta.reasoning_content is None or self.request.include_reasoning is not False

    def _finish_reason(self, choice: Choice, reason: str) -> str:
        if isinstance(self.request.tool_choice, dict):
            return reason  # as OpenAI's server says of a call that the request names
        return self._message(choice).finish_reason(reason)

    def _message(self, choice: Choice) -> ChatMessage:
        return join_deltas(self._deltas[choice.index])

    def _logprobs(self, logprobs: list[TokenLogprob]) -> dict[str, Any] | None:
        return chat_logprobs(self.served.tokenizer, logprobs) if self.request.logprobs else None

    def _chunk_choice(
        self, choice: Choice, delta: dict[str, Any], finish_reason: str | None = None
    ) -> dict[str, Any]:
        return {
            "index": choice.index,
            "delta": delta,
            "logprobs": None,
            "finish_reason": finish_reason,
        }

    def _choice_object(self, choice: Choice) -> dict[str, Any]:
        message = self._message(choice)
        entry: dict[str, Any] = {"role": "assistant", "content": message.content, "refusal": None}
        if message.content is None and not message.tool_calls:
            entry["content"] = ""
        if message.reasoning_content is not None:
            entry |= _reasoning(message.reasoning_content)
        if message.tool_calls:
            entry["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in message.tool_calls
            ]
        return {
            "index": choice.index,
            "message": entry,
            "logprobs": self._logprobs(choice.logprobs),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop_reason,
        }

    def usage(self) -> dict[str, Any]:
        """Return how many tokens there were, those of thinking too."""
        details = {"reasoning_tokens": self._reasoning_tokens}
        return super().usage() | {"completion_tokens_details": details}


def _render(request: ChatCompletionFields, served: ServedModel, messages: Any) -> ChatPrompt:
    """Return the prompt of messages."""
    variables = request.chat_template_kwargs or {}
    if unknown := [name for name in variables if name not in TEMPLATE_VARIABLES]:
        allowed = ", ".join(TEMPLATE_VARIABLES)
        raise ValueError(f"chat_template_kwargs has {shorten(unknown[0])}, allowed is {allowed}")
    is_continued = bool(request.continue_final_message)
    return chat_prompt(
        served.tokenizer,
        messages,
        tools=request.tools,
        add_generation_prompt=request.add_generation_prompt is not False and not is_continued,
        continue_final_message=is_continued,
        **{**variables, "enable_thinking": request.enable_thinking},
    )


def _constraint(
    request: ChatCompletionFields, served: ServedModel, prompt: ChatPrompt
) -> Constraint | None:
    """Return what the answer may be: up to its stop strings, and of the form that is asked for."""
    constraints: list[Constraint] = []
    if request.stops:
        minimum = request.min_tokens or 0
        constraints.append(StopStrings(served.tokenizer, request.stops, minimum))
    if form := answer_form(request, served.tokenizer):
        matcher = served.grammars.compile(*form)
        end = served.tokenizer.added_tokens_encoder.get(THINK_END) if prompt.is_reasoning else None
        constraints.append(served.grammars.constraint(matcher, end))
    return AllConstraints(*constraints) if constraints else None


def _delta(delta: DeltaMessage) -> dict[str, Any]:
    """Return a delta of a stream in OpenAI's shape."""
    if delta.content is not None:
        return {"content": delta.content}
    if delta.reasoning_content is not None:
        return _reasoning(delta.reasoning_content)
    call = delta.tool_call
    assert call is not None
    function: dict[str, Any] = {"arguments": call.arguments}
    if call.id is None:
        return {"tool_calls": [{"index": call.index, "function": function}]}
    entry = {"index": call.index, "id": call.id, "type": "function"}
    return {"tool_calls": [entry | {"function": {"name": call.name, **function}}]}


def _reasoning(text: str) -> dict[str, str]:
    """Return thinking under both names that clients read."""
    return {"reasoning_content": text, "reasoning": text}
