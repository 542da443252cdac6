"""Runner: a model that answers chats and completes texts in this process, in OpenAI's shapes.

runner = Runner(which=Which.Plain(model_id="examples/mimo-tiny"))
runner.chat_completion(messages=[{"role": "user", "content": "Hello"}]).choices[0].message.content
"""

from __future__ import annotations

import json
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .engine import Engine
from .json_object import shorten
from .model_loader import load_model
from .serving.chat_completion import ChatCompletionBuilder
from .serving.completion import CompletionBuilder
from .serving.engine_thread import EngineThread
from .serving.errors import APIError
from .serving.event_stream import EventStream
from .serving.objects import as_object
from .serving.protocol import (
    ChatCompletionFields,
    CompletionFields,
    GenerationRequest,
    parse_request,
)
from .serving.served_model import ServedModel
from .text.tokenizer import load_tokenizer, tokens

if TYPE_CHECKING:
    import os

    from .engine.stats import EngineStats
    from .serving.answers import ResponseBuilder

__all__ = ["ChatCompletionRequest", "CompletionRequest", "Runner", "Which"]

ARCHITECTURES = ("mimov2flash", "mimo_v2_flash", "MiMoV2FlashForCausalLM")
RENAMED = {"n_choices": "n", "stop_seqs": "stop", "echo_prompt": "echo"}
"""mistral.rs's names of fields, beside OpenAI's."""


class Which:
    """What a `Runner` runs."""

    @dataclass(frozen=True)
    class Plain:
        """A checkpoint with its tokenizer.

        Parameters
        ----------
        model_id : path
            Folder of the checkpoint.
        architecture, arch : str, optional
            Two names of the same: the architecture, checked if it is stated.
        topology : path, optional
            YAML file of the types that layers are quantized to: as of `load_model`.

        Raises
        ------
        ValueError
            If the architecture is another.
        """

        model_id: str | os.PathLike[str]
        architecture: str | None = None
        arch: str | None = None
        topology: str | os.PathLike[str] | None = None

        def __post_init__(self) -> None:
            """Check the architecture."""
            for name in (self.architecture, self.arch):
                if name is not None and str(name).lower() not in map(str.lower, ARCHITECTURES):
                    raise ValueError(
                        f"architecture is {shorten(name)}, allowed is {', '.join(ARCHITECTURES)}"
                    )


class _Request:
    """The fields of a request, by OpenAI's names or mistral.rs's."""

    def __init__(self, model: str = "default", **fields: Any) -> None:
        self.fields: dict[str, Any] = {"model": model}
        for name, value in fields.items():
            self.fields[RENAMED.get(name, name)] = value


class ChatCompletionRequest(_Request):
    """A request to answer a chat, for `Runner.send_chat_completion_request`.

    Parameters
    ----------
    messages : list of dict
        The chat.
    model : str
        Any name: a Runner has one model.
    **fields
        The fields of OpenAI's request (docs/serving.md), and mistral.rs's `n_choices`, `stop_seqs`,
        `tool_schemas` (texts of JSON) and `enable_thinking`.
    """

    def __init__(
        self, messages: list[Mapping[str, Any]], model: str = "default", **fields: Any
    ) -> None:
        if (schemas := fields.pop("tool_schemas", None)) is not None:
            fields["tools"] = [json.loads(schema) for schema in schemas]
        if (thinks := fields.pop("enable_thinking", None)) is not None:
            kwargs = fields.get("chat_template_kwargs") or {}
            fields["chat_template_kwargs"] = {**kwargs, "enable_thinking": thinks}
        super().__init__(model, messages=messages, **fields)


class CompletionRequest(_Request):
    """A request to continue a text, for `Runner.send_completion_request`.

    Parameters
    ----------
    prompt : str, list of int, or list of either
        What is continued.
    model : str
        Any name: a Runner has one model.
    **fields
        The fields of OpenAI's request (docs/serving.md), and mistral.rs's names of them.
    """

    def __init__(self, prompt: Any, model: str = "default", **fields: Any) -> None:
        super().__init__(model, prompt=prompt, **fields)


class Runner:
    """A model and its engine, which answer the requests of any number of threads.

    Parameters
    ----------
    which : Which.Plain
        The checkpoint.
    max_seqs : int
        The most answers that are generated at a time.
    max_length : int, optional
        The most tokens of a prompt and its answer; the model's if not given.
    draft_tokens : int or "auto"
        How many tokens MTP heads draft for each step: as of `Engine`.
    in_situ_quant : str, optional
        mistral.rs's name of `isq`: the type that weights are quantized to, such as "8" or "Q4K".
    **options
        Options of `load_model`: `backend`, `threads`, `cache_dtype`, `isq` and others.

    Raises
    ------
    ValueError, OSError, ImportError
        As `load_model` and `load_tokenizer`.

    Examples
    --------
    >>> with Runner(which=Which.Plain(model_id="examples/mimo-tiny")) as runner:
    ...     result = runner.completion("The list type", max_tokens=4, temperature=0)
    >>> result.choices[0].text, result.usage.completion_tokens
    (' is a list of', 4)
    """

    def __init__(
        self,
        which: Which.Plain,
        *,
        max_seqs: int = 32,
        max_length: int | None = None,
        draft_tokens: int | str = "auto",
        in_situ_quant: str | None = None,
        **options: Any,
    ) -> None:
        isq = {"isq": in_situ_quant, "topology": which.topology}
        options = {name: value for name, value in isq.items() if value is not None} | options
        model = load_model(which.model_id, max_length=max_length, **options)
        self._served = ServedModel(str(which.model_id), model, load_tokenizer(which.model_id))
        self._thread = EngineThread(Engine(model, max_seqs, draft_tokens=draft_tokens))

    def __enter__(self) -> Runner:
        """Return the runner, which is closed after the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the runner."""
        self.close()

    def close(self) -> None:
        """End all answers, and free the engine's memory."""
        self._thread.close()

    @property
    def stats(self) -> EngineStats:
        """The engine's statistics."""
        return self._thread.stats

    @property
    def max_sequence_length(self) -> int:
        """The most tokens of a prompt and its answer."""
        return self._served.max_length

    def chat_completion(self, messages: list[Mapping[str, Any]], **fields: Any) -> Any:
        """Return the answer to a chat; its chunks as they come if `stream` is true.

        Parameters
        ----------
        messages : list of dict
            The chat, as OpenAI's API has it.
        **fields
            As for `ChatCompletionRequest`.

        Returns
        -------
        ChatCompletion, or iterator of ChatCompletionChunk
            Of the `openai` package where it is installed, else of the same shape. An iterator that
            is closed early ends the answer.

        Raises
        ------
        ValueError
            If a field is not allowed, or the chat is too long.
        RuntimeError
            If the runner is closed, or the model fails.
        """
        return self.send_chat_completion_request(ChatCompletionRequest(messages, **fields))

    def completion(self, prompt: Any, **fields: Any) -> Any:
        """Return the texts that continue prompts: as `chat_completion`, of texts."""
        return self.send_completion_request(CompletionRequest(prompt, **fields))

    def send_chat_completion_request(self, request: ChatCompletionRequest) -> Any:
        """Return the answer to a request: see `chat_completion`."""
        return self._send(ChatCompletionFields, ChatCompletionBuilder, request)

    def send_completion_request(self, request: CompletionRequest) -> Any:
        """Return the answer to a request: see `completion`."""
        return self._send(CompletionFields, CompletionBuilder, request)

    def check_fields(self, fields: Mapping[str, Any]) -> None:
        """Raise ValueError if fields of a request are not allowed."""
        try:
            parse_request(GenerationRequest, fields).sampling(self._served.defaults)
        except APIError as error:
            raise ValueError(str(error)) from error

    def count_tokens(self, messages: list[Mapping[str, Any]], **fields: Any) -> int:
        """Return how many tokens a chat has for the model; ValueError if it is none."""
        request = ChatCompletionRequest(messages, **fields)
        answer = self._begin(ChatCompletionFields, ChatCompletionBuilder, request)
        return len(answer.submissions[0].prompt_tokens)

    def tokenize_text(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of a text."""
        return tokens(self._served.tokenizer, text, add_special_tokens=add_special_tokens)

    def detokenize_text(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        """Return the text of token ids."""
        tokenizer = self._served.tokenizer
        return str(tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens))

    def _begin(self, kind: Any, answer_kind: Any, request: _Request) -> ResponseBuilder:
        """Return the answer to a request, not yet begun; ValueError if it is malformed."""
        try:
            fields = parse_request(kind, request.fields)
            fields.check()
            answer: ResponseBuilder = answer_kind(fields, self._served)
        except APIError as error:
            raise ValueError(str(error)) from error
        return answer

    def _send(self, kind: Any, answer_kind: Any, request: _Request) -> Any:
        answer = self._begin(kind, answer_kind, request)
        if dropped := answer.notes.get("dropped_turns"):
            message = f"the context is full: the oldest turns ({dropped}) are left out"
            warnings.warn(message, stacklevel=4)
        chunks = _chunks(answer, EventStream(self._thread, answer.submissions))
        if answer.request.stream:
            return _objects(chunks)
        deque(chunks, maxlen=0)
        return as_object(answer.result())


def _objects(chunks: Any) -> Iterator[Any]:
    """Yield chunks as objects; closing the iterator closes `chunks`."""
    with closing(chunks):
        yield from map(as_object, chunks)


def _chunks(answer: ResponseBuilder, stream: EventStream) -> Iterator[dict[str, Any]]:
    """Yield the chunks of an answer; leaving the iterator ends the answer."""
    try:
        yield from answer.begin()
        for events in stream:
            yield from answer.push(events)
        yield from answer.end()
    except APIError as error:
        raise RuntimeError(str(error)) from error
    finally:
        stream.close()
