"""The shipped model behind a server on a real socket, and answers as a model would write them."""

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Thread
from types import SimpleNamespace
from typing import Any

from mimo_v2_flash import load_model
from mimo_v2_flash.engine import Engine
from mimo_v2_flash.engine.outputs import Event
from mimo_v2_flash.serving.api_server import APIServer
from mimo_v2_flash.serving.completion import CompletionBuilder
from mimo_v2_flash.serving.engine_thread import EngineThread
from mimo_v2_flash.serving.protocol import CompletionFields, parse_request
from mimo_v2_flash.serving.served_model import ServedModel
from mimo_v2_flash.serving.service import Service
from mimo_v2_flash.text.tokenizer import load_tokenizer, tokens

__all__ = [
    "NAME",
    "RESPONSES_WEATHER",
    "WEATHER",
    "completion_of",
    "events_of",
    "served_tiny",
    "serving",
]

NAME, FOLDER = "tiny", "examples/mimo-tiny"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "unit": {"enum": ["C", "F"]},
            },
            "required": ["city"],
        },
    },
}
RESPONSES_WEATHER = {"type": "function", **WEATHER["function"]}


def served_tiny(**options: Any) -> ServedModel:
    """Return the shipped model, with its tokenizer."""
    return ServedModel(NAME, load_model(FOLDER), load_tokenizer(FOLDER), **options)


def completion_of(served: ServedModel, **fields: Any) -> CompletionBuilder:
    """Return the answer to a request of /v1/completions, not yet begun."""
    request = parse_request(CompletionFields, {"prompt": "A list", **fields})
    return CompletionBuilder(request, served)


def events_of(tokenizer: Any, text: str, sizes: Sequence[int] = (), end: int | None = 2) -> Any:
    """Return the events of an answer that is `text`, in pieces of some sizes, and an end token."""
    remaining = [*tokens(tokenizer, text), *([] if end is None else [end])]
    events = []
    for size in (*sizes, len(remaining)):
        piece, remaining = remaining[:size], remaining[size:]
        reason = None if remaining else "length" if end is None else "stop"
        events.append([(0, Event(0, 0, tuple(piece), None, reason))])
        if reason:
            return events
    raise AssertionError


@contextmanager
def serving(
    model: Any = None,
    *,
    engine: dict[str, Any] | None = None,
    max_sequences: int = 4,
    **options: Any,
) -> Iterator[SimpleNamespace]:
    """Serve while the block runs: `url`, `service`, `engine`, `lines()` of the log.

    `model` answers instead of the shipped model, whose tokenizer stays.
    """
    log, served = io.StringIO(), served_tiny(max_length=256)
    one = Engine(model or served.model, max_sequences, 256, **{"prefix_cache": 0, **(engine or {})})
    with EngineThread(one) as thread:
        service = Service(served, thread)
        server = APIServer(service, port=0, log=log, **options)
        runner = Thread(target=server.run)
        runner.start()
        try:
            yield SimpleNamespace(
                url=server.url,
                service=service,
                engine=one,
                server=server,
                thread=runner,
                lines=lambda: [json.loads(line) for line in log.getvalue().splitlines()],
            )
        finally:
            server.shut_down()
            runner.join(30)
            assert not runner.is_alive()
