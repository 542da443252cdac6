"""Answers to requests of /v1/responses: those of a chat, as items and typed events."""

import time
from itertools import count
from typing import Any

from mimo_v2_flash.engine.outputs import Event
from mimo_v2_flash.text.chat_output import DeltaMessage

from .answers import Choice
from .chat_completion import ChatCompletionBuilder
from .errors import APIError
from .logprobs import token_entries
from .protocol import ResponseFields
from .response_input import chat_request
from .response_items import OutputItems
from .served_model import ServedModel

__all__ = ["ResponsesBuilder"]


class ResponsesBuilder(ChatCompletionBuilder):
    """The answer to a request of /v1/responses; parameters and attributes are its base's.

    The request decides whether the oldest turns go, if it has `truncation`.

    Parameters
    ----------
    request : ResponseFields
        The fields of the request.
    served : ServedModel
        The model and its tokenizer.
    drops_turns : bool
        Whether the oldest turns of a chat that is too long are dropped.
    """

    prefix = "resp"

    def __init__(
        self, request: ResponseFields, served: ServedModel, *, drops_turns: bool = True
    ) -> None:
        if request.truncation is not None:
            drops_turns = request.truncation == "auto"
        self._fields, self._drops_turns = request, drops_turns
        super().__init__(chat_request(request), served, drops_turns=drops_turns)
        self._items, self._numbers = OutputItems(), count()

    def begin(self) -> list[dict[str, Any]]:
        """Return the events before the first token."""
        response = self._response("in_progress")
        kinds = "response.created", "response.in_progress"
        return self._numbered([{"type": kind, "response": response} for kind in kinds])

    def _choice_chunks(self, choice: Choice, event: Event) -> list[dict[str, Any]]:
        deltas = self._wanted_deltas(choice, event)
        if event.finish_reason and not (deltas or self._items.items):
            deltas = [DeltaMessage(content="")]  # clients expect an item
        events = []
        for delta in deltas:
            events += self._items.push(delta, token_entries(self.served.tokenizer, delta.logprobs))
        if event.finish_reason:
            events += self._items.end(is_cut=event.finish_reason == "length")
        return self._numbered(events)

    def end(self) -> list[dict[str, Any]]:
        """Return the event that has the whole response."""
        response = self.result()
        event = {"type": f"response.{response['status']}", "response": response}
        return self._numbered([event])

    def failure(self, error: APIError) -> list[dict[str, Any]]:
        """Return the event of a response that failed."""
        response = self._response("failed")
        response["error"] = {"code": "server_error", "message": str(error)}
        return self._numbered([{"type": "response.failed", "response": response}])

    def result(self) -> dict[str, Any]:
        """Return the whole response."""
        is_cut = self.choices[0].finish_reason == "length"
        usage = self.usage()
        return self._response("incomplete" if is_cut else "completed") | {
            "completed_at": None if is_cut else int(time.time()),
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "usage": {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": usage["prompt_tokens_details"] | {"cache_write_tokens": 0},
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": usage["completion_tokens_details"],
                "total_tokens": usage["total_tokens"],
            },
        }

    def _numbered(self, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [event | {"sequence_number": next(self._numbers)} for event in events]

    def _response(self, status: str) -> dict[str, Any]:
        """Return the response as it is now, with all fields that OpenAI's has."""
        fields, params = self._fields, self.submissions[0].params
        tool = {"description": None, "parameters": None, "strict": None}
        absent = (
            *("completed_at", "error", "incomplete_details", "max_tool_calls", "usage"),
            *("previous_response_id", "prompt_cache_key", "safety_identifier"),
        )
        return dict.fromkeys(absent) | {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "model": self.served.name,
            "output": list(self._items.items),
            "instructions": fields.instructions,
            "max_output_tokens": fields.max_output_tokens,
            "tools": [tool | each for each in fields.tools or ()],
            "tool_choice": fields.tool_choice or "auto",
            "parallel_tool_calls": fields.parallel_tool_calls is not False,
            "text": {"format": fields.format},
            "reasoning": {"effort": fields.effort, "summary": None},
            "truncation": "auto" if self._drops_turns else "disabled",
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_logprobs": fields.top_logprobs or 0,
            "presence_penalty": params.presence_penalty,
            "frequency_penalty": params.frequency_penalty,
            "metadata": fields.metadata or {},
            "service_tier": "default",
            "background": False,
            "store": False,
        }
