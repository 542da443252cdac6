"""Output items of /v1/responses, and the events of a stream that tell how they grow.

Source: OpenAI's Responses API (https://platform.openai.com/docs/api-reference/responses-streaming).
"""

import uuid
from collections.abc import Sequence
from typing import Any

from mimo_v2_flash.text.chat_output import DeltaMessage, DeltaToolCall

__all__ = ["OutputItems"]

PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc"}
PARTS: dict[str, dict[str, Any]] = {
    "message": {"type": "output_text", "annotations": [], "logprobs": []},
    "reasoning": {"type": "reasoning_text"},
}
EVENTS = {
    "message": "response.output_text",
    "reasoning": "response.reasoning_text",
    "function_call": "response.function_call_arguments",
}


class OutputItems:
    """The items of a response in the making: thinking, messages and calls, as they come.

    Attributes
    ----------
    items
        The items, the last of which may grow.
    """

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self._key: tuple[str, int] | None = None  # kind of the open item, and number of the call
        self._pieces, self._logprobs = list[str](), list[dict[str, Any]]()  # of the open item
        self._is_whole = False  # the open call

    def push(
        self, delta: DeltaMessage, logprobs: Sequence[dict[str, Any]] = ()
    ) -> list[dict[str, Any]]:
        """Add a delta to the item that it belongs to, and return the events of it.

        Parameters
        ----------
        delta
            The delta.
        logprobs
            The log-probabilities of its tokens, as `token_entries` has them.
        """
        call, is_message = delta.tool_call, delta.content is not None
        kind = "function_call" if call else "message" if is_message else "reasoning"
        key, events = (kind, call.index if call else 0), list[dict[str, Any]]()
        if key != self._key:
            events = [*self.end(is_cut=False), *self._begin(key, call)]
        self._is_whole = call is not None and call.is_complete
        text = call.arguments if call else delta.content or delta.reasoning_content
        if text:
            self._pieces.append(text)
            self._logprobs += logprobs
            events.append(self._text_event("delta", logprobs, delta=text))
        return events

    def end(self, *, is_cut: bool) -> list[dict[str, Any]]:
        """End the open item, if there is one, and return the events of that.

        Parameters
        ----------
        is_cut
            Whether the answer ended before the model ended it; a call knows for itself.
        """
        if self._key is None:
            return []
        kind, text = self._key[0], "".join(self._pieces)
        if kind == "function_call":
            fields: dict[str, Any] = {"arguments": text}
            is_cut = not self._is_whole
            events = [self._text_event("done", name=self.items[-1]["name"], **fields)]
        else:
            part = PARTS[kind] | {"text": text}
            if kind == "message":
                part["logprobs"] = self._logprobs
            fields = {"content": [part]}
            part_done = self._event("response.content_part.done", part=part)
            events = [self._text_event("done", self._logprobs, text=text), part_done]
        fields["status"] = "incomplete" if is_cut else "completed"
        self.items[-1] = self.items[-1] | fields
        self._key, self._pieces, self._logprobs = None, [], []
        return [*events, self._item_event("done")]

    def _begin(self, key: tuple[str, int], call: DeltaToolCall | None) -> list[dict[str, Any]]:
        kind, _ = self._key = key
        item = {"id": f"{PREFIXES[kind]}_{uuid.uuid4().hex}", "type": kind, "status": "in_progress"}
        if call is not None:
            self.items.append(item | {"call_id": call.id, "name": call.name, "arguments": ""})
            return [self._item_event("added")]
        others: dict[str, Any] = {"role": "assistant"} if kind == "message" else {"summary": []}
        self.items.append(item | others | {"content": []})
        part = PARTS[kind] | {"text": ""}
        return [self._item_event("added"), self._event("response.content_part.added", part=part)]

    def _item_event(self, what: str) -> dict[str, Any]:
        index, item = len(self.items) - 1, self.items[-1]
        return {"type": f"response.output_item.{what}", "output_index": index, "item": item}

    def _text_event(
        self, what: str, logprobs: Sequence[dict[str, Any]] = (), **fields: Any
    ) -> dict[str, Any]:
        kind = self.items[-1]["type"]
        if kind == "message":
            fields["logprobs"] = list(map(_without_bytes, logprobs))
        return self._event(f"{EVENTS[kind]}.{what}", **fields)

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        index, item = len(self.items) - 1, self.items[-1]
        place = {"item_id": item["id"], "output_index": index}
        if item["type"] != "function_call":
            place["content_index"] = 0
        return {"type": kind, **place, **fields}


def _without_bytes(entry: dict[str, Any]) -> dict[str, Any]:
    """Return a token's entry as events have it: those of items alone have bytes."""
    top = [{"token": each["token"], "logprob": each["logprob"]} for each in entry["top_logprobs"]]
    return {"token": entry["token"], "logprob": entry["logprob"], "top_logprobs": top}
